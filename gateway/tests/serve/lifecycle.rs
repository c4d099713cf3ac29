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
    // What its text gives away, and what only shows when it is held against the gateway's config.
    for (policy, place, key) in [
        ("rules:\n  - name: broken\n", "policy.yaml:2:", "rules[0]"),
        (
            "rules:\n  - name: a\n    who: { authenticator: corp, subjects: [a] }\n    htpp: {}\n",
            "policy.yaml:4:",
            "htpp",
        ),
        (
            "rules:\n  - name: a\n    who: { authenticator: crop, subjects: [a] }\n    describe: {}\n",
            "policy.yaml:2:",
            "no authenticator \\\"crop\\\"",
        ),
    ] {
        world.write_policy(policy);
        lines.wait_for(key).await;
        let line = lines.text().lines().find(|line| line.contains(key)).unwrap().to_owned();
        assert!(line.contains("the old one stays in force") && line.contains(place), "{line}");
        assert!(fetch(&tunnel, &world.token("alice"), get(target.address, "/v1/x")).await.is_ok());
    }
}

#[tokio::test]
async fn a_reload_tells_each_grant_that_it_adds_or_takes_away() {
    let (lines, _guard) = Lines::catch();
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    world.write_policy(&rules(target.address).replace("methods: [GET, HEAD, POST]", "methods: [GET]"));
    lines.wait_for("\"grant\":\"scoring: corp/alice may http GET *.models.svc").await;
    let text = lines.text();
    let told = |message: &str, grant: &str| text.lines().any(|line| line.contains(message) && line.contains(grant));
    assert!(told("grant removed", "scoring: corp/alice may http GET,HEAD,POST *.models.svc"), "{text}");
    assert!(!told("grant removed", "connectors:"), "what has not changed is not told");
}

#[tokio::test]
async fn the_kill_switch_acts_within_a_second_even_beside_a_broken_policy() {
    let (lines, _guard) = Lines::catch();
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    world.write_policy("rules: [{ name: broken }]");
    lines.wait_for("the old one stays in force").await;
    // Whatever is neither a plain yes nor a plain no counts as yes.
    for text in ["true\n", "yes, please"] {
        let open = open_http(post(target.address, "/v1/echo"));
        let (mut sender, mut receiver) = tunnel.forward(subject(&world.token("alice")), open).await.unwrap();
        sender.data(Bytes::from_static(b"a")).await.unwrap();
        receiver.next().await.unwrap().unwrap();
        let begin = std::time::Instant::now();
        world.write("suspended", text);
        let failure = receive(&mut receiver).await.unwrap_err();
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
        assert!(failure.message.contains("the cluster owner has suspended everything"), "{failure}");
        assert!(fetch(&tunnel, &world.token("alice"), get(target.address, "/v1/x")).await.is_err());
        world.write("suspended", "false");
        timeout(PATIENCE, async {
            while fetch(&tunnel, &world.token("alice"), get(target.address, "/v1/x")).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("the policy that was in force serves again");
    }
}

#[tokio::test]
async fn a_kill_switch_that_cannot_be_read_is_on() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let (token, ask) = (world.token("alice"), || get(target.address, "/v1/x"));
    // A folder is as little to be read as a file that only its owner may read, whoever runs the test.
    std::fs::create_dir(world.path("suspended")).unwrap();
    let failure = async {
        loop {
            if let Err(failure) = fetch(&tunnel, &token, ask()).await {
                break failure;
            }
        }
    };
    let failure = timeout(PATIENCE, failure).await.expect("it is suspended");
    assert!(failure.message.contains("the cluster owner has suspended everything"), "{failure}");
    std::fs::remove_dir(world.path("suspended")).unwrap();
    timeout(PATIENCE, async { while fetch(&tunnel, &token, ask()).await.is_err() {} }).await.expect("it serves again");
}

#[tokio::test]
async fn an_emergency_grant_is_told_at_every_step_and_its_end_ends_its_streams() {
    let (lines, _guard) = Lines::catch();
    let target = Target::http().await;
    let world = World::start(Setup {
        rules: rules(target.address),
        targets: &[("scorer.models.svc", target.address)],
        more: "audit: { file: audit.jsonl, required: true }",
    })
    .await;
    let tunnel = world.held().await;
    let ends = time::OffsetDateTime::now_utc() + Duration::from_secs(6);
    let until = ends.format(&time::format_description::well_known::Rfc3339).unwrap();
    world.write_policy(&format!(
        "{}  - name: emergency
    who: {{ authenticator: corp, subjects: [dave] }}
    http: {{ hosts: [scorer.models.svc], ports: [{}] }}
    until: {until}
    reason: ticket 4711
",
        rules(target.address),
        target.address.port()
    ));
    lines.wait_for("break-glass rule in force").await;
    let open = open_http(post(target.address, "/v1/echo"));
    let (mut sender, mut receiver) = tunnel.forward(subject(&world.token("dave")), open).await.unwrap();
    sender.data(Bytes::from_static(b"a")).await.unwrap();
    let failure = receive(&mut receiver).await.unwrap_err();
    assert_eq!(failure.code, Code::PolicyDenied);
    assert!(failure.message.contains("rule \"emergency\" lacks time (its `until` is past)"), "{failure}");
    assert!(time::OffsetDateTime::now_utc() >= ends, "and not sooner");
    let text = lines.text();
    for told in ["break-glass rule in force", "break-glass rule used", "break-glass rule has ended"] {
        let line = text.lines().find(|line| line.contains(told)).unwrap_or_else(|| panic!("{told}: {text}"));
        assert!(line.contains("\"WARN\"") && line.contains("emergency") && line.contains("ticket 4711"), "{line}");
    }
    fetch(&tunnel, &world.token("alice"), get(target.address, "/v1/x")).await.unwrap();
    let audit = std::fs::read_to_string(world.path("audit.jsonl")).unwrap();
    for kind in ["break_glass_in_force", "break_glass_used", "break_glass_ended"] {
        assert!(audit.contains(&format!("\"kind\":\"{kind}\"")), "{audit}");
    }
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
