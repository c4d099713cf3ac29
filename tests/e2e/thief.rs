//! Somebody has stolen the right to listen, and listens beside the real listener (SD-9). He gets a share of the
//! connectors' tunnels and none of their secrets: every request succeeds all the same, and it is told who he is.
use std::{collections::BTreeSet, time::Duration};

use causeway_tests::{
    curl::Curl,
    log::Entry,
    nginx,
    process::Process,
    programs,
    site::{Face, Site},
    topology::{Connector, Topology, ready},
    wait::within,
};

const LIMIT: Duration = Duration::from_secs(120);

/// Requests in each life of the connector.
const REQUESTS: usize = 10;

/// Starts a listener with the stolen key that takes senders somewhere else, and chooses no subprotocol: a relay might
/// name only those who do.
async fn thief(topology: &Topology, to: std::net::SocketAddr) -> Process {
    let text = std::fs::read_to_string(topology.site.file("listener.yaml")).unwrap();
    let text = text.replace(&topology.gateway_address.to_string(), &to.to_string());
    topology.site.write("thief.yaml", &text.replace("tunnel:", "tcp:"));
    let mut thief = programs::start("thief", "relay", topology.site.path(), ["listen", "-c", "thief.yaml"]);
    let admin = thief.address("admin").await;
    ready("thief", admin).await;
    // Both of his channels, so that he gets his whole share.
    thief
        .log()
        .wait(|entries| {
            (entries.iter().filter(|entry| entry.message() == "control channel up").count() == 2).then_some(())
        })
        .await;
    thief
}

/// Ids of a listener's control channels so far.
fn ids(listener: &Process) -> BTreeSet<String> {
    let entries = listener.log().entries();
    let up = entries.iter().filter(|entry| entry.message() == "control channel up");
    up.filter_map(|entry| entry.field("listener")).collect()
}

/// Restarts the connector and waits until it can do its part, wherever its admin port is now.
async fn live_again(connector: &mut Connector) {
    let mark = connector.process.log().mark();
    connector.process.stop().await;
    connector.process.start_again();
    let is_admin = |entry: &Entry| entry.message() == "listening" && entry.field("what").as_deref() == Some("admin");
    let listening = connector.process.log().entry("the admin port", mark, is_admin).await;
    connector.admin = listening.field("address").unwrap().parse().unwrap();
    connector.ready().await;
}

async fn every_request_succeeds(connector: &Connector) {
    for number in 0..REQUESTS {
        let answer = Curl::new(connector.url(Face::Web)).run().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, nginx::HELLO), "request {number}");
    }
}

/// What the connector's log says of those who did not prove to be the gateway: their ids.
fn reported(connector: &Connector) -> Vec<String> {
    let entries = connector.process.log().entries();
    let told = entries.iter().filter(|entry| entry.message().contains("did not prove to be the gateway"));
    told.filter_map(|entry| entry.field("listener")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_thief_with_a_gateway_of_his_own_every_request_succeeds_and_he_is_named() {
    within(LIMIT, async {
        let mut topology = Topology::relay().await;
        // He has a gateway for a cluster of the same name, with a CA of his own.
        let other = Site::new().await;
        let (impostor, address) = other.gateway().await;
        let thief = thief(&topology, address).await;
        // Tunnels go where the relay's dice fall: new ones, until he has had one.
        let mut lives = 0;
        while reported(&topology.connector).is_empty() {
            live_again(&mut topology.connector).await;
            every_request_succeeds(&topology.connector).await;
            lives += 1;
            assert!(lives < 30, "the thief never got a tunnel");
        }
        let (thieves, honest) = (ids(&thief), ids(&topology.relay.as_ref().unwrap().1));
        for id in reported(&topology.connector) {
            assert!(thieves.contains(&id) && !honest.contains(&id), "{id} is none of {thieves:?}");
        }
        let status = Curl::new(format!("http://{}/statusz", topology.connector.admin)).run().await.text();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let cluster = &status["connector"]["clusters"][0];
        assert!(cluster["gateway_identity_mismatch"].as_u64().unwrap() > 0, "{cluster}");
        // Nobody's token and no stream came to him.
        let heard = impostor.log().entries();
        assert!(heard.iter().all(|entry| !entry.is_access("stream")), "the impostor was spoken to");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_thief_who_answers_with_noise_every_request_succeeds() {
    within(LIMIT, async {
        let mut topology = Topology::relay().await;
        let thief = thief(&topology, topology.site.echo.address).await;
        let robbed = |thief: &Process| thief.log().entries().iter().any(|entry| entry.message() == "rendezvous ended");
        let mut lives = 0;
        while !robbed(&thief) {
            live_again(&mut topology.connector).await;
            every_request_succeeds(&topology.connector).await;
            lives += 1;
            assert!(lives < 30, "the thief never got a tunnel");
        }
        assert_eq!(reported(&topology.connector), Vec::<String>::new(), "noise is nobody's identity");
    })
    .await;
}
