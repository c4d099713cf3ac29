//! A peer that is gone without a word: packets stop, and no connection is closed. Both ends find it within half a minute,
//! say so, and go on over a new tunnel.
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use causeway_tests::{
    curl::Curl,
    log::Entry,
    nginx,
    process::Process,
    site::{Face, Site},
    topology::ready,
    wait::{until, within},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

const LIMIT: Duration = Duration::from_secs(120);

/// What is promised: ten seconds of silence, ten more after the question, and a margin.
const FOUND: Duration = Duration::from_secs(30);

/// Carries bytes, until it is told to carry no more of those connections that are there.
struct Path {
    address: SocketAddr,
    age: watch::Sender<u64>,
    _tasks: JoinSet<()>,
}

impl Path {
    async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (age, mut tasks) = (watch::Sender::new(0), JoinSet::new());
        let ages = age.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let mut age = ages.subscribe();
                connections.spawn(async move {
                    let (mut near, Ok(mut far)) = (near, TcpStream::connect(target).await) else { return };
                    tokio::select! {
                        biased;
                        // Both sockets stay open, and nobody reads them.
                        _ = age.changed() => std::future::pending().await,
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    }
                });
            }
        });
        Self { address, age, _tasks: tasks }
    }

    fn goes_silent(&self) {
        self.age.send_modify(|age| *age += 1);
    }
}

/// Waits until the connector has lost its tunnels and the gateway has too, and requests pass again.
async fn both_ends_find_it(path: &Path, connector: (&Process, String), gateway: &Process) {
    let (connector, url) = connector;
    let (near, far) = (connector.log().mark(), gateway.log().mark());
    path.goes_silent();
    let began = Instant::now();
    let lost = |entry: &Entry| entry.message() == "tunnel lost";
    let dead = |entry: &Entry| {
        entry.field("kind").as_deref() == Some("tunnel")
            && entry.field("ended").is_some_and(|why| why.starts_with("lost"))
    };
    tokio::join!(
        connector.log().entry("the connector to find its peer gone", near, lost),
        gateway.log().entry("the gateway to find its peer gone", far, dead),
    );
    assert!(began.elapsed() < FOUND, "{:?}", began.elapsed());
    until("requests to pass again", async || {
        let answer = Curl::new(&url).run().await;
        (answer.status == 200 && answer.text() == nginx::HELLO).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_peer_is_found_within_half_a_minute_on_both_ends() {
    within(LIMIT, async {
        let direct = async {
            let site = Site::new().await;
            let (gateway, address) = site.gateway().await;
            site.export_trust().await;
            let path = Path::to(address).await;
            let connector = site.direct_connector(path.address).await;
            connector.ready().await;
            both_ends_find_it(&path, (&connector.process, connector.url(Face::Web)), &gateway).await;
        };
        let relayed = async {
            let site = Site::new().await;
            let (gateway, address) = site.gateway().await;
            site.export_trust().await;
            let (_relay, relay) = site.relay().await;
            // Between listener and gateway, where neither the relay nor the connector sees a socket end.
            let path = Path::to(address).await;
            let mut listener = site.listener(relay, path.address);
            ready("listener", listener.address("admin").await).await;
            let connector = site.relay_connector(relay).await;
            connector.ready().await;
            both_ends_find_it(&path, (&connector.process, connector.url(Face::Web)), &gateway).await;
        };
        tokio::join!(direct, relayed);
    })
    .await;
}
