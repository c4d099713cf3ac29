//! No process needs another to be there first.
use std::time::Duration;

use causeway_tests::{
    curl::Curl,
    nginx,
    site::{CLUSTER, Face, Site},
    topology::{readiness, ready},
    wait::within,
};

const LIMIT: Duration = Duration::from_secs(90);

/// A site whose gateway and relay have had their ports and identity, and are gone again.
async fn installed_but_not_running() -> (Site, std::net::SocketAddr, std::net::SocketAddr) {
    let site = Site::new().await;
    let (mut gateway, gateway_address) = site.gateway().await;
    site.export_trust().await;
    let (mut relay, relay_address) = site.relay().await;
    gateway.kill().await;
    relay.kill().await;
    (site, gateway_address, relay_address)
}

#[tokio::test(flavor = "multi_thread")]
async fn direct_mode_comes_up_from_nothing_ready() {
    within(LIMIT, async {
        let (site, gateway_address, _) = installed_but_not_running().await;

        // The connector alone: it lives, says that it is not ready, and answers on its faces.
        let connector = site.direct_connector(gateway_address).await;
        assert_eq!(readiness(connector.admin).await, Some(503));
        let of = async |cluster: &str| {
            Curl::new(format!("http://{}/readyz?cluster={cluster}", connector.admin)).run().await.status
        };
        assert_eq!((of(CLUSTER).await, of("factory-b").await), (503, 404));
        let alive = Curl::new(format!("http://{}/livez", connector.admin)).run().await;
        assert_eq!(alive.status, 200);
        let refused = Curl::new(connector.url(Face::Web)).run().await;
        assert!(matches!(refused.status, 502..=504), "{refused:?}");

        // The gateway: ready by itself, although nobody has connected yet.
        let (mut gateway, _) = site.gateway().await;
        let admin = gateway.address("admin").await;
        ready("gateway", admin).await;

        connector.ready().await;
        assert_eq!((of(CLUSTER).await, of("factory-b").await), (200, 404));
        let answer = Curl::new(connector.url(Face::Web)).run().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, nginx::HELLO));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_ready_without_any_peer() {
    within(LIMIT, async {
        let site = Site::new().await;
        let (mut gateway, _) = site.gateway().await;
        let admin = gateway.address("admin").await;
        ready("gateway", admin).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_is_ready_without_any_peer() {
    within(LIMIT, async {
        let site = Site::new().await;
        let (mut relay, _) = site.relay().await;
        let admin = relay.address("admin").await;
        ready("relay", admin).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_mode_comes_up_in_the_wrong_order() {
    within(LIMIT, async {
        let (site, gateway_address, relay_address) = installed_but_not_running().await;
        let connector = site.relay_connector(relay_address).await;
        let mut listener = site.listener(relay_address, gateway_address);
        let admin = listener.address("admin").await;
        assert_eq!(readiness(admin).await, Some(503), "no control channel yet");
        let _relay = site.relay().await;
        ready("listener", admin).await;
        let _gateway = site.gateway().await;
        connector.ready().await;
        let answer = Curl::new(connector.url(Face::Web)).run().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, nginx::HELLO));
    })
    .await;
}
