//! Who gets in, and what the others are told.
use std::time::Duration;

use daemon::clock::Clock as _;
use identity::{sas, secret::Secret};

use crate::support::{LISTEN_KEY, NAMESPACE_KEY, Relay, SECOND_KEY, SEND_KEY, config};

const LISTEN: &str = "/$hc/e?sb-hc-action=listen";
const CONNECT: &str = "/$hc/e?sb-hc-action=connect";

async fn answered(relay: &Relay, target: &str, token: &str) -> (u16, String) {
    let answer = relay.raw(target, &[("ServiceBusAuthorization", token)]).await;
    (answer.status, answer.reason)
}

#[tokio::test]
async fn every_bad_token_is_refused_with_its_reason() {
    let relay = Relay::new().await;
    let now = relay.clock.now();
    let until = |expires| relay.token_until("listen", LISTEN_KEY, "e", expires);
    for (what, token, status, text) in [
        (
            "wrong key",
            relay.token("listen", SEND_KEY, "e"),
            401,
            "InvalidSignature: The token has an invalid signature",
        ),
        (
            "unknown rule",
            relay.token("nobody", LISTEN_KEY, "e"),
            401,
            "InvalidSignature: The token has an invalid signature",
        ),
        ("expired", until(now - Duration::from_secs(301)), 401, "ExpiredToken: The token is expired"),
        ("too long a life", until(now + Duration::from_secs(25 * 3600)), 401, "InvalidLifetime: "),
        ("other entity", relay.token("listen", LISTEN_KEY, "other"), 401, "InvalidAudience: "),
        ("no token at all", "hello".to_owned(), 401, "MalformedToken: "),
        ("a JWT", "Bearer e30.e30.c2ln".to_owned(), 401, "MalformedToken: "),
        ("wrong right", relay.token("send", SEND_KEY, "e"), 403, "The token does not have the right"),
    ] {
        let (got, reason) = answered(&relay, LISTEN, &token).await;
        assert_eq!(got, status, "{what}: {reason}");
        assert!(reason.starts_with(text), "{what}: {reason}");
    }
    assert_eq!(relay.raw(LISTEN, &[]).await.status, 401);
    assert_eq!(answered(&relay, CONNECT, &relay.listen_token()).await.0, 403);
}

#[tokio::test]
async fn a_clock_that_is_behind_is_forgiven_within_the_grace() {
    let relay = Relay::new().await;
    let token = relay.token_until("listen", LISTEN_KEY, "e", relay.clock.now() - Duration::from_secs(250));
    assert_eq!(answered(&relay, LISTEN, &token).await.0, 101);
}

#[tokio::test]
async fn unknown_entities_cannot_be_told_from_known_ones_without_a_namespace_token() {
    let relay = Relay::new().await;
    let (known, unknown) = ("/$hc/other?sb-hc-action=listen", "/$hc/nobody?sb-hc-action=listen");
    for (known_token, unknown_token) in [
        (relay.token("listen", LISTEN_KEY, "other"), relay.token("listen", LISTEN_KEY, "nobody")),
        (relay.listen_token(), relay.listen_token()),
        (String::new(), String::new()),
    ] {
        let (one, other) =
            (answered(&relay, known, &known_token).await, answered(&relay, unknown, &unknown_token).await);
        assert_eq!(one.0, 401);
        assert_eq!(other.0, 401);
        assert_eq!(one.1.split(". TrackingId").next(), other.1.split(". TrackingId").next());
    }
    let namespace = relay.token("all", NAMESPACE_KEY, "");
    let (status, reason) = answered(&relay, unknown, &namespace).await;
    assert_eq!(status, 404);
    assert!(reason.starts_with("Endpoint does not exist. TrackingId:"), "{reason}");
    let (status, reason) = answered(&relay, CONNECT, &namespace).await;
    assert_eq!(status, 404);
    assert!(reason.starts_with("There are no listeners connected for the endpoint. TrackingId:"), "{reason}");
}

#[tokio::test]
async fn every_carrier_of_a_token_is_read() {
    let relay = Relay::new().await;
    let token = relay.listen_token();
    for header in ["ServiceBusAuthorization", "servicebusauthorization", "Authorization"] {
        assert_eq!(relay.raw(LISTEN, &[(header, &token)]).await.status, 101, "{header}");
    }
    let encoded: String = token.bytes().map(|byte| format!("%{byte:02x}")).collect();
    assert_eq!(relay.raw(&format!("{LISTEN}&sb-hc-token={encoded}"), &[]).await.status, 101);
    // The first carrier counts, even if a later one would do.
    let refused = relay.raw(&format!("{LISTEN}&sb-hc-token=x"), &[("ServiceBusAuthorization", &token)]).await;
    assert_eq!(refused.status, 401);
}

#[tokio::test]
async fn a_secondary_key_and_a_token_for_the_suffix_verify() {
    let relay = Relay::new().await;
    for (token, target) in [
        (relay.token("send", SECOND_KEY, "e"), "/$hc/e"),
        (relay.token("send", SEND_KEY, "e/sub"), "/$hc/e/sub/way?x=1"),
        (relay.token("SEND", SEND_KEY, "E/"), "/$hc/e"),
    ] {
        // 404: let in, and nobody listens.
        assert_eq!(answered(&relay, target, &token).await.0, 404, "{target}");
    }
}

#[tokio::test]
async fn anonymous_senders_need_no_token_and_listeners_always_do() {
    let relay = Relay::new().await;
    assert_eq!(relay.raw("/$hc/open", &[]).await.status, 404);
    assert_eq!(answered(&relay, "/$hc/open?sb-hc-token=garbage", "garbage").await.0, 404);
    assert_eq!(relay.raw("/$hc/open?sb-hc-action=listen", &[]).await.status, 401);
}

#[tokio::test]
async fn a_pinned_entity_takes_listeners_from_its_ranges_alone_and_senders_from_anywhere() {
    let text = config("{ address: 127.0.0.1:0 }", "handshakes_per_address: 200");
    let pinned = |range| text.replacen("  e:\n", &format!("  e:\n    listeners_from: {range}\n"), 1);
    let relay = Relay::with(&pinned("[192.0.2.0/24, \"2001:db8::/32\"]")).await;
    let (status, reason) = answered(&relay, LISTEN, &relay.listen_token()).await;
    assert_eq!(status, 403);
    assert!(reason.starts_with("AddressNotAllowed: Listeners of this endpoint may not come from"), "{reason}");
    let (status, reason) = answered(&relay, LISTEN, &relay.send_token()).await;
    assert_eq!(status, 403);
    assert!(reason.starts_with("The token does not have the right"), "nobody else learns of the pin: {reason}");
    assert_eq!(answered(&relay, CONNECT, &relay.send_token()).await.0, 404, "no listener");
    let relay = Relay::with(&pinned("127.0.0.0/8")).await;
    assert_eq!(answered(&relay, LISTEN, &relay.listen_token()).await.0, 101);
}

#[tokio::test]
async fn every_spelling_of_the_resource_lets_listeners_and_senders_in() {
    let relay = Relay::new().await;
    let expires = relay.clock.now() + Duration::from_secs(600);
    let host = "127.0.0.1";
    for resource in [
        // What hyco-ws and hyco-https, .NET, Java (whose senders leave the path out) and Python sign.
        format!("http://{host}:443/e"),
        format!("http://{host}/e/"),
        format!("sb://{host}/e"),
        format!("sb://{host}:9443/e"),
        format!("sb://{host}"),
        format!("http://{host}/e"),
        format!("http://{host}/"),
        format!("http://{host}/E"),
        format!("wss://{host}/e"),
    ] {
        let token = |rule, key| sas::mint(&resource, rule, &Secret::new(key), expires).expose().to_owned();
        let (status, reason) = answered(&relay, LISTEN, &token("listen", LISTEN_KEY)).await;
        assert_eq!(status, 101, "{resource}: {reason}");
        let (status, reason) = answered(&relay, "/$hc/Deep/Name?sb-hc-action=connect", &token("send", SEND_KEY)).await;
        let covers_all = !resource.to_ascii_lowercase().trim_end_matches('/').ends_with("/e");
        assert_eq!(status, if covers_all { 404 } else { 401 }, "{resource} for another entity: {reason}");
    }
}
