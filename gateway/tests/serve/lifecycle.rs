//! Reload, suspension, drain, and the tunnel's own services.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use daemon::shutdown::Outcome;
use http::HeaderMap;
use proto::tunnel::{
    failure::Code,
    pb::{Fin, watch_event},
};
use tokio::time::timeout;

use crate::support::{
    PATIENCE, Setup, World, fetch, get, logs::Lines, open_http, post, receive, rules, subject, targets::Target,
};

#[tokio::test]
async fn a_new_policy_ends_the_streams_that_it_does_not_allow_and_no_others() {
    let (lines, _guard) = Lines::catch();
    let target = Target::http().await;
    let both = format!(
        "{}  - name: others\n    who: {{ authenticator: corp, subjects: [bob] }}\n    http: {{ hosts: [scorer.models.svc], ports: [{}] }}\n",
        rules(target.address),
        target.address.port()
    );
    let world = World::start(Setup { rules: both, targets: &[("scorer.models.svc", target.address)], more: "" }).await;
    let tunnel = world.held().await;
    let open = || open_http(post(target.address, "/v1/echo"));
    let (mut alices, mut to_alice) = tunnel.forward(subject(&world.token("alice")), open()).await.unwrap();
    let (mut bobs, mut to_bob) = tunnel.forward(subject(&world.token("bob")), open()).await.unwrap();
    alices.data(Bytes::from_static(b"a")).await.unwrap();
    bobs.data(Bytes::from_static(b"b")).await.unwrap();
    while target.connections.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    world.write_policy(&rules(target.address));
    let failure = receive(&mut to_bob).await.unwrap_err();
    assert_eq!(failure.code, Code::PolicyDenied);
    assert!(failure.message.starts_with("the policy changed: no rule for corp/bob"), "{failure}");
    alices.fin(Fin::default()).await.unwrap();
    assert_eq!(&receive(&mut to_alice).await.unwrap().body[..], b"a");
    assert!(lines.text().contains("\"revoked\":\"others\""), "{}", lines.text());
}

#[tokio::test]
async fn a_broken_policy_file_leaves_the_old_one_in_force() {
    let (lines, _guard) = Lines::catch();
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    world.write_policy("rules: [{ name: broken }]");
    timeout(PATIENCE, async {
        while !lines.text().contains("the old one stays in force") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the broken file is noticed");
    assert!(fetch(&tunnel, &world.token("alice"), get(target.address, "/v1/x")).await.is_ok());
}

#[tokio::test]
async fn a_start_without_a_valid_policy_fails() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    for policy in [None, Some("rules: [{ name: broken }]"), Some("rulez: []")] {
        match policy {
            Some(text) => world.write_policy(text),
            None => std::fs::remove_file(world.path("policy.yaml")).unwrap(),
        }
        let loaded = daemon::config::load::<gateway::serve::Config>(&world.path("gateway.yaml"), &[]).unwrap();
        let context = daemon::process::Context::new("causeway_gateway");
        let error = gateway::serve::start(loaded, context).await.unwrap_err();
        assert!(matches!(error, gateway::serve::StartError::Policy(_)), "{error}");
        let explained = daemon::process::explain(&error);
        assert!(explained.contains("policy.yaml"), "{explained}");
    }
}

#[tokio::test]
async fn a_file_named_suspended_ends_everything_and_its_end_lets_it_begin_again() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let token = world.token("alice");
    let open = open_http(post(target.address, "/v1/echo"));
    let (mut sender, mut receiver) = tunnel.forward(subject(&token), open).await.unwrap();
    sender.data(Bytes::from_static(b"a")).await.unwrap();
    let mut watch = tunnel.watch(HeaderMap::new()).await.unwrap();
    assert!(watch.next().await.unwrap().is_ok());
    std::fs::write(world.path("suspended"), "true\n").unwrap();
    let failure = receive(&mut receiver).await.unwrap_err();
    assert!(failure.message.contains("the cluster owner has suspended everything"), "{failure}");
    assert!(timeout(PATIENCE, watch.next()).await.unwrap().is_none_or(|event| event.is_err()), "watchers end too");
    let refused = fetch(&tunnel, &token, get(target.address, "/v1/x")).await.unwrap_err();
    assert_eq!(refused.code, Code::PolicyDenied);
    std::fs::remove_file(world.path("suspended")).unwrap();
    timeout(PATIENCE, async {
        while fetch(&tunnel, &token, get(target.address, "/v1/x")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("it serves again");
}

#[tokio::test]
async fn draining_tells_watchers_and_lets_streams_finish() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let mut watch = tunnel.watch(HeaderMap::new()).await.unwrap();
    let first = watch.next().await.unwrap().unwrap();
    assert!(matches!(first.event, Some(watch_event::Event::State(state)) if state.cluster == "factory-a"));
    let open = open_http(post(target.address, "/v1/echo"));
    let (mut sender, mut receiver) = tunnel.forward(subject(&world.token("alice")), open).await.unwrap();
    sender.data(Bytes::from_static(b"half")).await.unwrap();
    let finish = async {
        let notice = timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap();
        assert!(matches!(notice.event, Some(watch_event::Event::Drain(drain)) if drain.within_ms > 0));
        timeout(PATIENCE, tunnel.closed()).await.expect("no new streams");
        sender.data(Bytes::from_static(b" and half")).await.unwrap();
        sender.fin(Fin::default()).await.unwrap();
        assert_eq!(&receive(&mut receiver).await.unwrap().body[..], b"half and half");
    };
    let (outcome, ()) = tokio::join!(world.drain(PATIENCE), finish);
    assert_eq!(outcome, Outcome::Drained);
    assert!(tokio::net::TcpStream::connect(world.address).await.is_err(), "the port is closed");
}

#[tokio::test]
async fn what_outlives_the_grace_period_is_cut_with_a_reason() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let open = open_http(get(target.address, "/v1/never"));
    let (_sender, mut receiver) = tunnel.forward(subject(&world.token("alice")), open).await.unwrap();
    while target.count() == 0 {
        tokio::task::yield_now().await;
    }
    let (outcome, answer) = tokio::join!(world.drain(Duration::from_millis(500)), receive(&mut receiver));
    assert!(matches!(outcome, Outcome::Forced(_)));
    assert_eq!(answer.unwrap_err().code, Code::Draining);
}

#[tokio::test]
async fn it_is_ready_without_any_peer() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    assert!(world.context.readiness.is_ready());
}

#[tokio::test]
async fn only_the_cluster_proves_itself_and_the_public_half_is_enough() {
    let target = Target::http().await;
    let (one, other) = (World::with_http(target.address).await, World::with_http(target.address).await);
    let tcp = tokio::net::TcpStream::connect(one.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(other.trust.inner_client(None).unwrap());
    let refused = connector.connect(identity::tls::cluster::inner_name(), tcp).await.unwrap_err();
    assert!(identity::tls::cluster::is_identity_mismatch(&refused), "{refused}");
}
