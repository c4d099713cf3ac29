//! Where nobody may or can go.
use causeway_tests::{
    curl::Curl,
    process::Entry,
    topology::{CLUSTER, Face, Topology},
    wait::within,
};
use serde_json::Value;
use tokio::{io::AsyncReadExt, net::TcpStream};

use super::LIMIT;

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_to_reach_a_target_has_its_own_answer() {
    within(LIMIT, async {
        let topology = Topology::relay().await;
        let log = topology.gateway.log();
        for (face, status, code) in [
            (Face::Denied, 403, "policy_denied"),
            (Face::Unresolvable, 502, "target_unresolved"),
            (Face::Refused, 502, "target_refused"),
        ] {
            let mark = log.mark();
            let answer = Curl::new(topology.connector.url(face)).run().await;
            let said: Value = serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{face:?}: {answer:?}"));
            assert_eq!((answer.status, said["code"].as_str()), (status, Some(code)), "{face:?}: {said}");
            assert_eq!(answer.fields["causeway-error"], code);
            assert_eq!(said["decided_by"], format!("gateway {CLUSTER}"), "{face:?}");
            assert_eq!(said["reached_target"], "no", "{face:?}");
            assert!(said["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()), "{face:?}: {said}");

            let stream = said["stream_id"].as_str().unwrap().to_owned();
            let line = log.entry("the refusal", mark, |entry| entry.contains(&stream) && entry.is_access()).await;
            assert!(line.contains(code), "{face:?}: {}", line.line);
            assert_eq!(log.since(mark).iter().filter(|entry| entry.is_access()).count(), 1, "{face:?}");
        }
    })
    .await;
}

/// A TCP client can be told only by the end of its connection; the logs say the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_tcp_client_of_a_denied_target_is_closed_at_once() {
    within(LIMIT, async {
        let topology = Topology::direct().await;
        let mark = topology.gateway.log().mark();
        let mut stream = TcpStream::connect(topology.connector.address(Face::DeniedTcp)).await.unwrap();
        let end = stream.read(&mut [0; 1]).await;
        assert!(!matches!(end, Ok(1..)), "{end:?}");
        let line = topology.gateway.log().entry("the refusal", mark, Entry::is_access).await;
        assert!(line.contains("policy_denied"), "{}", line.line);
        let connector = topology.connector.process.log();
        connector.entry("the refusal", 0, |entry| entry.is_access() && entry.contains("policy_denied")).await;
    })
    .await;
}
