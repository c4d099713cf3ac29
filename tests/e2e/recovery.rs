//! Any process can be killed, and when it is back, everything works again without help.
use std::time::Duration;

use causeway_tests::{
    curl::Curl,
    nginx,
    process::Process,
    site::Face,
    topology::Topology,
    wait::{until, within},
};

const LIMIT: Duration = Duration::from_secs(120);

/// Longest time that one attempt may take while something is down: an answer, right or wrong, must come.
const ATTEMPT: Duration = Duration::from_secs(20);

async fn works(topology: &Topology) -> bool {
    let answer = Curl::new(topology.connector.url(Face::Web)).limit(ATTEMPT).run().await;
    answer.status == 200 && answer.text() == nginx::HELLO
}

/// Kills one process, sees the effect, starts it again, and waits until requests pass.
async fn recovers_from_loss_of(topology: &mut Topology, name: &str, victim: impl Fn(&mut Topology) -> &mut Process) {
    assert!(works(topology).await, "before the {name} is killed");
    let others = ids(topology);
    let lost = victim(topology).id();
    victim(topology).kill().await;
    assert!(!works(topology).await, "without the {name} nothing passes");
    victim(topology).start_again();
    until(format_args!("requests to pass after the {name} came back"), async || works(topology).await.then_some(()))
        .await;
    let replaced: Vec<_> = others.iter().filter(|id| !ids(topology).contains(id)).collect();
    assert_eq!(replaced, [&lost], "nobody else was restarted");
}

fn ids(topology: &Topology) -> Vec<u32> {
    let relay = topology.relay.iter().flat_map(|(relay, listener)| [relay.id(), listener.id()]);
    relay.chain([topology.gateway.id(), topology.connector.process.id()]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_may_be_killed() {
    within(LIMIT, async {
        let mut topology = Topology::relay().await;
        recovers_from_loss_of(&mut topology, "relay", |topology| &mut topology.relay.as_mut().unwrap().0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_listener_may_be_killed() {
    within(LIMIT, async {
        let mut topology = Topology::relay().await;
        recovers_from_loss_of(&mut topology, "listener", |topology| &mut topology.relay.as_mut().unwrap().1).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_may_be_killed_behind_a_relay() {
    within(LIMIT, async {
        let mut topology = Topology::relay().await;
        recovers_from_loss_of(&mut topology, "gateway", |topology| &mut topology.gateway).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_may_be_killed_in_direct_mode() {
    within(LIMIT, async {
        let mut topology = Topology::direct().await;
        recovers_from_loss_of(&mut topology, "gateway", |topology| &mut topology.gateway).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connector_may_be_killed() {
    within(LIMIT, async {
        let mut topology = Topology::relay().await;
        recovers_from_loss_of(&mut topology, "connector", |topology| &mut topology.connector.process).await;
    })
    .await;
}
