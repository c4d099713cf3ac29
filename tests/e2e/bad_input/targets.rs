//! Where nobody may or can go.
use causeway_tests::{
    curl::Curl,
    site::{CLUSTER, Face},
    topology::Topology,
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
            let answer = Curl::new(topology.connector.url(face)).run().await;
            let said: Value = serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{face:?}: {answer:?}"));
            assert_eq!((answer.status, said["code"].as_str()), (status, Some(code)), "{face:?}: {said}");
            assert_eq!(answer.fields["causeway-error"], code);
            assert_eq!(said["decided_by"], format!("gateway {CLUSTER}"), "{face:?}");
            assert_eq!(said["reached_target"], "no", "{face:?}");
            assert!(said["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()), "{face:?}: {said}");

            let line = log.access(said["stream_id"].as_str().unwrap()).await;
            assert!(line.contains(code), "{face:?}: {}", line.line);
        }
    })
    .await;
}

/// A TCP client can be told only by the end of its connection; the logs say the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_tcp_client_of_a_denied_target_is_closed_at_once() {
    within(LIMIT, async {
        let topology = Topology::direct().await;
        // So early that even connecting may see it.
        let end = match TcpStream::connect(topology.connector.address(Face::DeniedTcp)).await {
            Ok(mut stream) => stream.read(&mut [0; 1]).await,
            Err(error) => Err(error),
        };
        assert!(!matches!(end, Ok(1..)), "{end:?}");
        let connector = topology.connector.process.log();
        let ours = connector.entry("the refusal", 0, |entry| entry.stream("tcp").is_some()).await;
        for log in [connector, topology.gateway.log()] {
            let line = log.access(&ours.stream("tcp").unwrap()).await;
            assert!(line.contains("policy_denied"), "{}", line.line);
        }
    })
    .await;
}
