//! Who may not come in.
use causeway_tests::{
    curl::{Answer, Curl},
    process::{Entry, Process},
    topology::{CLUSTER, CONNECTOR, Face, Site, Topology, readiness, ready, relay_way},
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

            let stream = said["stream_id"].as_str().unwrap().to_owned();
            let line = log.entry(format!("refusal for {reason}"), mark, |entry| entry.contains(&stream)).await;
            assert!(line.contains("token_refused"), "{reason}: {}", line.line);
            let lines: Vec<_> = log.since(mark).into_iter().filter(Entry::is_access).collect();
            assert_eq!(lines.len(), 1, "{reason}: one line, not {lines:?}");
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
            ("expired", issuer.expired(), "token_refused"),
            ("no sub", issuer.without("sub"), "token_refused"),
            ("foreign key", issuer.bad()["foreign key"].clone(), "token_refused"),
            ("no rule", issuer.subject("stranger"), "policy_denied"),
        ] {
            site.write("connector.token", &token);
            let mark = gateway.log().mark();
            let connector = site.direct_connector(gateway_address).await;
            connector.process.log().entry(format!("{reason}: {code}"), 0, |entry| entry.contains(code)).await;
            gateway.log().entry(format!("{reason}: {code}"), mark, |entry| entry.contains(code)).await;
            assert_eq!(readiness(connector.admin).await, Some(503), "{reason}");
            let answer = Curl::new(connector.url(Face::Web)).run().await;
            assert!(matches!(answer.status, 401 | 403 | 502..=504), "{reason}: {answer:?}");
            for log in [gateway.log(), connector.process.log()] {
                assert!(!log.lines().iter().any(|line| line.contains(&token)), "{reason}: a log repeats the token");
            }
        }
        // Mended while it runs, the connector comes up by itself.
        let connector = site.direct_connector(gateway_address).await;
        site.write("connector.token", &issuer.subject(CONNECTOR));
        connector.ready().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_hybrid_connection_is_said_to_whoever_asked() {
    within(LIMIT, async {
        let (site, relay, relay_address, gateway_address) = relay_site().await;
        let connector = site.connector(&relay_way(relay_address, "no-such-entity")).await;
        told(&connector.process, &relay, "404", "no-such-entity").await;
        assert_eq!(readiness(connector.admin).await, Some(503));

        // The listener's side of the same mistake.
        let listener = site.listener(relay_address, gateway_address);
        drop(listener);
        site.edit("listener.yaml", &format!("/{CLUSTER}\n"), "/neither-this-one\n");
        let mut listener =
            causeway_tests::programs::start("listener", "relay", site.path(), ["listen", "-c", "listener.yaml"]);
        let admin = listener.address("admin").await;
        told(&listener, &relay, "404", "neither-this-one").await;
        assert_eq!(readiness(admin).await, Some(503));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_relay_key_is_said_to_whoever_asked() {
    within(LIMIT, async {
        let (site, relay, relay_address, gateway_address) = relay_site().await;
        let right = std::fs::read_to_string(site.file("listen.key")).unwrap();
        // Each end with the other's key: right length, wrong right.
        let other = std::fs::read_to_string(site.file("send.key")).unwrap();
        site.write("wrong.key", &other);
        let listener = site.listener(relay_address, gateway_address);
        drop(listener);
        site.edit("listener.yaml", "file: listen.key", "file: wrong.key");
        let mut listener =
            causeway_tests::programs::start("listener", "relay", site.path(), ["listen", "-c", "listener.yaml"]);
        let admin = listener.address("admin").await;
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

async fn relay_site() -> (Site, Process, std::net::SocketAddr, std::net::SocketAddr) {
    let site = Site::new().await;
    let (mut gateway, gateway_address) = site.gateway().await;
    site.export_trust().await;
    gateway.kill().await;
    let (relay, relay_address) = site.relay().await;
    (site, relay, relay_address, gateway_address)
}

/// The one who asked is told the status, and the relay logs one line about it.
async fn told(who: &Process, relay: &Process, status: &str, about: &str) {
    who.log().entry(format!("{status} about {about}"), 0, |entry| entry.contains(status)).await;
    relay.log().entry(format!("a refusal about {about}"), 0, |entry| entry.contains(about)).await;
}
