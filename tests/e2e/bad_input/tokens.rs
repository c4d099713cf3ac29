//! Who may not come in.
use std::net::SocketAddr;

use causeway_tests::{
    curl::{Answer, Curl},
    process::Process,
    programs,
    site::{CLUSTER, CONNECTOR, Face, Site, relay_way},
    topology::{Connector, Topology, readiness, ready},
    wait::within,
};
use serde_json::Value;

use super::LIMIT;

/// What a face says about a failure.
fn refusal(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("no refusal of ours: {answer:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_token_is_refused_for_each_reason() {
    within(LIMIT, async {
        let topology = Topology::direct().await;
        let log = topology.gateway.log();
        let url = topology.connector.url(Face::Caller);
        for (reason, token) in topology.site.issuer.bad() {
            let mark = log.mark();
            let answer = Curl::new(&url).bearer(&token).run().await;
            assert_eq!(answer.status, 401, "{reason}: {answer:?}");
            let said = refusal(&answer);
            assert_eq!(said["code"], "token_refused", "{reason}: {said}");
            assert_eq!(said["reached_target"], "no", "{reason}");
            assert_eq!(said["decided_by"], format!("gateway {CLUSTER}"), "{reason}");
            assert!(!answer.text().contains(&token), "{reason}: the refusal repeats the token");

            let line = log.access(said["stream_id"].as_str().unwrap()).await;
            assert!(line.contains("token_refused"), "{reason}: {}", line.line);
            assert!(!log.since(mark).iter().any(|entry| entry.contains(&token)), "{reason}: the log repeats the token");
        }
        assert!(topology.site.nginx.accesses().is_empty(), "nothing reached the target");

        // And none at all.
        let answer = Curl::new(&url).run().await;
        assert_eq!((answer.status, refusal(&answer)["code"].as_str()), (401, Some("unauthenticated")));
        assert_eq!(refusal(&answer)["decided_by"], "connector");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_token_of_somebody_without_a_rule_is_denied() {
    within(LIMIT, async {
        let topology = Topology::direct().await;
        let token = topology.site.issuer.subject("stranger");
        let answer = Curl::new(topology.connector.url(Face::Caller)).bearer(&token).run().await;
        assert_eq!((answer.status, refusal(&answer)["code"].as_str()), (403, Some("policy_denied")));
        assert!(answer.text().contains("tests/stranger"), "{}", answer.text());
        assert!(topology.site.nginx.accesses().is_empty(), "nothing reached the target");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connector_with_a_bad_token_gets_no_tunnel() {
    within(LIMIT, async {
        let site = Site::new().await;
        let (gateway, gateway_address) = site.gateway().await;
        site.export_trust().await;
        let issuer = &site.issuer;
        for (reason, token, code) in [
            ("no sub", issuer.without("sub"), "token_refused"),
            ("foreign key", issuer.bad()["foreign key"].clone(), "token_refused"),
            ("no rule", issuer.subject("stranger"), "policy_denied"),
        ] {
            site.write("connector.token", &token);
            let mark = gateway.log().mark();
            let connector = site.direct_connector(gateway_address).await;
            connector.process.log().entry(format!("{reason}: {code}"), 0, |entry| entry.contains(code)).await;
            gateway.log().entry(format!("{reason}: {code}"), mark, |entry| entry.contains(code)).await;
            no_tunnel(reason, &connector).await;
            for log in [gateway.log(), connector.process.log()] {
                assert!(!log.lines().iter().any(|line| line.contains(&token)), "{reason}: a log repeats the token");
            }
        }

        // That a token has expired its owner sees by itself, and does not show it to anybody.
        site.write("connector.token", &issuer.expired());
        let mark = gateway.log().mark();
        let connector = site.direct_connector(gateway_address).await;
        connector.process.log().entry("the token has expired", 0, |entry| entry.contains("has expired")).await;
        no_tunnel("expired", &connector).await;
        assert!(!gateway.log().since(mark).iter().any(|entry| entry.contains("\"actor\"")), "no tunnel was opened");

        // Mended while it runs, the connector comes up by itself.
        site.write("connector.token", &issuer.subject(CONNECTOR));
        connector.ready().await;
    })
    .await;
}

async fn no_tunnel(reason: &str, connector: &Connector) {
    assert_eq!(readiness(connector.admin).await, Some(503), "{reason}");
    let answer = Curl::new(connector.url(Face::Web)).run().await;
    assert!(matches!(answer.status, 502..=504), "{reason}: {answer:?}");
    assert_eq!(refusal(&answer)["decided_by"], "connector", "{reason}");
}

/// A token that is good for the whole namespace learns that there is no such hybrid connection; one that could only be
/// good for that hybrid connection is refused as any other, so that names cannot be tried out.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_hybrid_connection_is_said_to_whoever_asked() {
    within(LIMIT, async {
        for (rules, status) in [("", "401"), (NAMESPACE_RULES, "404")] {
            let site = Site::new().await;
            site.edit("relay.yaml", "entities:", &format!("{rules}entities:"));
            let (relay, relay_address, gateway_address) = relay_alone(&site).await;
            let connector = site.connector(&relay_way(relay_address, "no-such-entity")).await;
            told(&connector.process, &relay, status, "no-such-entity").await;
            assert_eq!(readiness(connector.admin).await, Some(503));

            // The listener's side of the same mistake.
            let (listener, admin) =
                listener_with(&site, relay_address, gateway_address, &format!("/{CLUSTER}\n"), "/neither-this-one\n")
                    .await;
            told(&listener, &relay, status, "neither-this-one").await;
            assert_eq!(readiness(admin).await, Some(503));
        }
    })
    .await;
}

/// Rules as the site's entity has them, for the whole namespace.
const NAMESPACE_RULES: &str = "rules:
  factory-a-listen: { rights: [listen], keys: [{ file: listen.key }] }
  factory-a-send: { rights: [send], keys: [{ file: send.key }] }
";

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_relay_key_is_said_to_whoever_asked() {
    within(LIMIT, async {
        let site = Site::new().await;
        let (relay, relay_address, gateway_address) = relay_alone(&site).await;
        let right = std::fs::read_to_string(site.file("listen.key")).unwrap();
        // The listener with the sender's key: a good key, and not this rule's.
        let other = std::fs::read_to_string(site.file("send.key")).unwrap();
        site.write("wrong.key", &other);
        let (listener, admin) =
            listener_with(&site, relay_address, gateway_address, "file: listen.key", "file: wrong.key").await;
        told(&listener, &relay, "401", "InvalidSignature").await;
        // Mended while it runs, the listener comes up by itself.
        site.write("wrong.key", &right);
        ready("listener", admin).await;
        for secret in [&right, &other] {
            for process in [&listener, &relay] {
                assert!(!process.log().lines().iter().any(|line| line.contains(secret.as_str())), "a log holds a key");
            }
        }
    })
    .await;
}

/// A running relay, and the address of a gateway that is not there.
async fn relay_alone(site: &Site) -> (Process, SocketAddr, SocketAddr) {
    let (mut gateway, gateway_address) = site.gateway().await;
    site.export_trust().await;
    gateway.kill().await;
    let (relay, relay_address) = site.relay().await;
    (relay, relay_address, gateway_address)
}

/// A listener whose file says something else in one place, and its admin port.
async fn listener_with(
    site: &Site,
    relay: SocketAddr,
    gateway: SocketAddr,
    from: &str,
    to: &str,
) -> (Process, SocketAddr) {
    site.write_listener(relay, gateway);
    site.edit("listener.yaml", from, to);
    let mut listener = programs::start("listener", "relay", site.path(), ["listen", "-c", "listener.yaml"]);
    let admin = listener.address("admin").await;
    (listener, admin)
}

/// The one who asked is told the status, and the relay logs one line about it.
async fn told(who: &Process, relay: &Process, status: &str, about: &str) {
    who.log().entry(format!("{status} about {about}"), 0, |entry| entry.contains(status)).await;
    relay.log().entry(format!("a refusal about {about}"), 0, |entry| entry.contains(about)).await;
}
