//! Who calls: what is accepted as proof, and how refusals read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue};
use identity::{jwt::Signer, secret::Secret};
use proto::tunnel::failure::{Code, Failure, Reached};
use serde_json::json;

use crate::support::{
    AUDIENCE, ISSUER, Setup, World, actor, fetch, get, logs::Lines, open_http, receive, rules, subject, targets::Target,
};

#[tokio::test]
async fn a_call_without_token_reaches_nothing() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.tunnel().await;
    let open = open_http(get(target.address, "/v1/x"));
    let (_sender, mut receiver) = tunnel.forward(HeaderMap::new(), open).await.unwrap();
    let failure = receive(&mut receiver).await.unwrap_err();
    assert_eq!((failure.code, failure.reached), (Code::Unauthenticated, Reached::No));
    assert_eq!(tunnel.describe(HeaderMap::new()).await.unwrap_err().code, Code::Unauthenticated);
    assert_eq!(target.count(), 0);
}

#[tokio::test]
async fn tokens_that_are_not_right_are_refused_with_the_reason() {
    let (lines, _guard) = Lines::catch();
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": now + 600 });
    let with = |key: &str, value: serde_json::Value| {
        let mut claims = claims.clone();
        claims[key] = value;
        world.signer.sign(&claims)
    };
    for (token, reason) in [
        (Secret::new("garbage"), "token"),
        (world.token_for("alice", -3600), "expired"),
        (with("aud", json!("api://other")), "audience"),
        (with("iss", json!("https://other")), "issuer"),
        (Signer::generate("k1").sign(&claims), "signature"),
    ] {
        let failure = fetch(&tunnel, &token, get(target.address, "/v1/x")).await.unwrap_err();
        assert_eq!((failure.code, failure.reached), (Code::TokenRefused, Reached::No), "{failure}");
        assert!(failure.message.to_lowercase().contains(reason), "{failure} should speak of {reason}");
    }
    assert_eq!(target.count(), 0);
    drop(tunnel);
    world.drain(Duration::from_secs(5)).await;
    let refused = lines.access("http");
    assert_eq!(refused.len(), 5, "each refusal is one line, and says what was wanted");
    assert!(refused.iter().all(|line| line["target_host"] == format!("scorer.models.svc:{}", target.address.port())));
}

#[tokio::test]
async fn describe_binds_the_actor_and_only_the_same_one_may_renew() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.tunnel().await;
    let described = tunnel.describe(actor(&world.token("connector"))).await.unwrap();
    assert_eq!((described.cluster.as_str(), described.actor.as_str()), ("factory-a", "corp/connector"));
    assert_eq!(described.trust_anchors.len(), 1);
    let renewed = tunnel.describe(actor(&world.token_for("connector", 1200))).await.unwrap();
    assert!(renewed.actor_expires > described.actor_expires);
    let failure = tunnel.describe(actor(&world.token("alice"))).await.unwrap_err();
    assert_eq!(failure.code, Code::TokenRefused);
    assert!(failure.message.contains("belongs to corp/connector"), "{failure}");
    // The binding stays, and a call without a subject is the actor's own.
    assert_eq!(tunnel.describe(HeaderMap::new()).await.unwrap().actor, "corp/connector");
}

#[tokio::test]
async fn an_actor_without_rule_is_known_and_still_told_nothing() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.tunnel().await;
    let failure = tunnel.describe(actor(&world.token("alice"))).await.unwrap_err();
    assert_eq!(failure.code, Code::PolicyDenied);
    assert!(failure.message.contains("corp/alice describe"), "{failure}");
    // Alice may not ask what the gateway is, and may do what a rule grants her.
    let open = open_http(get(target.address, "/v1/x"));
    let (mut sender, mut receiver) = tunnel.forward(HeaderMap::new(), open).await.unwrap();
    sender.fin(proto::tunnel::pb::Fin::default()).await.unwrap();
    assert_eq!(receive(&mut receiver).await.unwrap().head.status, 200);
}

#[tokio::test]
async fn a_plain_caller_needs_no_binding() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.tunnel().await;
    assert!(fetch(&tunnel, &world.token("alice"), get(target.address, "/v1/x")).await.is_ok());
}

#[tokio::test]
async fn a_subject_and_an_actor_are_two_principals() {
    let target = Target::http().await;
    let rules = rules(target.address).replace(
        "who: { authenticator: corp, subjects: [alice] }",
        "who: { authenticator: corp, subjects: [alice], actor: { authenticator: corp, subjects: [connector] } }",
    );
    let world = World::start(Setup { rules, targets: &[("scorer.models.svc", target.address)], more: "" }).await;
    let token = world.token("alice");
    let alone = fetch(&world.tunnel().await, &token, get(target.address, "/v1/x")).await.unwrap_err();
    assert!(alone.message.contains("lacks this actor"), "{alone}");
    assert!(fetch(&world.held().await, &token, get(target.address, "/v1/x")).await.is_ok());
}

#[tokio::test]
async fn a_doubled_or_malformed_authorization_is_refused() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let mut doubled = subject(&world.token("alice"));
    doubled.append("authorization", HeaderValue::from_static("Bearer x"));
    let basic = HeaderMap::from_iter([(http::header::AUTHORIZATION, HeaderValue::from_static("Basic dTpw"))]);
    for metadata in [doubled, basic] {
        let open = open_http(get(target.address, "/v1/x"));
        let (_sender, mut receiver) = tunnel.forward(metadata, open).await.unwrap();
        assert_eq!(receive(&mut receiver).await.unwrap_err().code, Code::TokenRefused);
    }
}

#[tokio::test]
async fn a_tunnel_on_which_nobody_proves_anything_is_ended() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.tunnel().await;
    let mut refused = 0;
    while tunnel.is_open() && refused < 1000 {
        let failure: Failure = tunnel.describe(actor(&Secret::new("garbage"))).await.unwrap_err();
        assert!(matches!(failure.code, Code::TokenRefused | Code::TunnelLost | Code::Draining), "{failure:?}");
        refused += 1;
    }
    assert!(refused < 100, "it takes {refused} refusals");
}

#[tokio::test]
async fn a_tunnel_that_stays_silent_is_ended() {
    let (lines, _guard) = Lines::catch();
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.tunnel().await;
    // From here on time passes as soon as nothing else happens.
    tokio::time::pause();
    tunnel.closed().await;
    assert_eq!(lines.access("tunnel")[0]["ended"], "nobody proved who they are");
}

#[tokio::test]
async fn a_stream_that_goes_round_in_circles_is_stopped() {
    let target = Target::http().await;
    let world = World::with_http(target.address).await;
    let tunnel = world.held().await;
    let open = proto::tunnel::pb::Open { hops: 4, ..open_http(get(target.address, "/v1/x")) };
    let (_sender, mut receiver) = tunnel.forward(subject(&world.token("alice")), open).await.unwrap();
    assert_eq!(receive(&mut receiver).await.unwrap_err().code, Code::LimitReached);
    assert_eq!(target.count(), 0);
}

#[tokio::test]
async fn a_stream_ends_when_its_token_is_too_old() {
    let target = Target::http().await;
    let world = World::start(Setup {
        rules: rules(target.address),
        targets: &[("scorer.models.svc", target.address)],
        more: "limits: { max_after_expiry: 0s }",
    })
    .await;
    let tunnel = world.held().await;
    let failure = fetch(&tunnel, &world.token_for("alice", 2), get(target.address, "/v1/never")).await.unwrap_err();
    assert_eq!(failure.code, Code::TokenRefused, "{failure}");
    assert!(failure.message.contains("the token of corp/alice ended"), "{failure}");
}
