//! Everything that leaves goes through the proxy, where there is one. Relay and gateway have names here that nobody but
//! the proxy can resolve, and everything that reaches the relay has to come from the proxy's own address.
use std::{net::ToSocketAddrs as _, time::Duration};

use causeway_tests::{
    curl::Curl,
    nginx,
    process::Process,
    programs,
    site::{CLUSTER, Face, Site, direct_way},
    squid::{PASSWORD, Squid, USER},
    topology::{Connector, ready},
    wait::{until, within},
};

const LIMIT: Duration = Duration::from_secs(90);

const RELAY: &str = "relay.factory.invalid";
const GATEWAY: &str = "gateway.factory.invalid";

/// A site whose relay and gateway are reached by names.
struct Hidden {
    site: Site,
    relay: Process,
    relay_port: u16,
    gateway: Process,
    gateway_port: u16,
}

impl Hidden {
    async fn new() -> Self {
        let site = Site::new().await;
        site.pki.write_server_named(site.path(), &[RELAY]);
        site.edit("relay.yaml", &format!("namespace: {}", site.relay_ip), &format!("namespace: {RELAY}"));
        let (gateway, gateway_address) = site.gateway().await;
        site.export_trust().await;
        let (relay, relay_address) = site.relay().await;
        site.write_listener(relay_address, gateway_address);
        site.edit("listener.yaml", &relay_address.to_string(), &format!("{RELAY}:{}", relay_address.port()));
        assert!((RELAY, 443).to_socket_addrs().is_err(), "the relay's name means something here");
        Self { relay_port: relay_address.port(), gateway_port: gateway_address.port(), site, relay, gateway }
    }

    fn hosts(&self) -> [(&'static str, std::net::IpAddr); 2] {
        [(RELAY, self.site.relay_ip), (GATEWAY, self.site.gateway_ip)]
    }

    /// The way through the relay by its name.
    fn relay_way(&self) -> String {
        let port = self.relay_port;
        format!(
            "hybrid_connection: sb://{RELAY}:{port}/{CLUSTER}
        credential: {{ sas: {{ rule: {CLUSTER}-send, key: {{ file: send.key }} }} }}"
        )
    }

    /// The proxy and its user in a config file.
    fn proxy_section(&self, squid: &Squid, password: &str) -> String {
        self.site.write("proxy.password", password);
        format!("proxy: {{ url: \"http://{}\", user: {USER}, password: {{ file: proxy.password }} }}\n", squid.address)
    }

    async fn listener(&self) -> Process {
        let mut listener = programs::start("listener", "relay", self.site.path(), ["listen", "-c", "listener.yaml"]);
        let admin = listener.address("admin").await;
        ready("listener", admin).await;
        listener
    }
}

async fn works(connector: &Connector) {
    connector.ready().await;
    let answer = Curl::new(connector.url(Face::Web)).run().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, nginx::HELLO));
}

/// Ends both programs, so that every tunnel has its line in the proxy's log, and checks that all went through it.
async fn nothing_went_around(hidden: &mut Hidden, squid: &Squid, mut listener: Process, mut connector: Connector) {
    connector.process.stop().await;
    listener.stop().await;
    // Two control channels, two tunnels, and a rendezvous for each of those.
    let port = hidden.relay_port;
    until("the proxy to write all its lines", async || {
        let lines = squid.accesses();
        let line = format!("CONNECT {RELAY}:{port} 200 ");
        let count = lines.iter().filter(|seen| seen.starts_with(&line)).count();
        (count >= 6).then_some(())
    })
    .await;
    hidden.relay.stop().await;
    let entries = hidden.relay.log().entries();
    // Listeners and senders as `peer`, rendezvous as `remote`.
    let peers = entries.iter().flat_map(|entry| [entry.field("peer"), entry.field("remote")]);
    let peers: Vec<_> = peers.flatten().collect();
    let from_proxy = format!("{}:", squid.outgoing);
    assert!(peers.len() >= 6, "the relay tells of those who came: {peers:?}");
    assert!(peers.iter().all(|peer| peer.starts_with(&from_proxy)), "something went around {from_proxy} {peers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn control_channels_rendezvous_and_senders_leave_through_the_proxy_of_the_environment() {
    within(LIMIT, async {
        let mut hidden = Hidden::new().await;
        let squid = Squid::open(&hidden.hosts()).await;
        let mut spec = programs::spec("listener", "relay", hidden.site.path(), ["listen", "-c", "listener.yaml"]);
        spec.env.push(("HTTPS_PROXY".to_owned(), format!("http://{}", squid.address).into()));
        let mut listener = Process::start(spec);
        let admin = listener.address("admin").await;
        ready("listener", admin).await;
        let proxy = format!("proxy: {{ url: \"http://{}\" }}\n", squid.address);
        let connector = hidden.site.connector_with(&hidden.relay_way(), &proxy).await;
        works(&connector).await;
        nothing_went_around(&mut hidden, &squid, listener, connector).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_asks_for_a_login_gets_it_and_nobody_else_does() {
    within(LIMIT, async {
        let mut hidden = Hidden::new().await;
        let squid = Squid::asking(&hidden.hosts()).await;
        let section = hidden.proxy_section(&squid, PASSWORD);
        hidden.site.append("listener.yaml", &section);
        let listener = hidden.listener().await;
        let connector = hidden.site.connector_with(&hidden.relay_way(), &section).await;
        works(&connector).await;
        let status = Curl::new(format!("http://{}/statusz", connector.admin)).run().await.text();
        let logs = [listener.log().lines(), connector.process.log().lines(), hidden.relay.log().lines()].concat();
        assert!(!logs.join("\n").contains(PASSWORD) && !status.contains(PASSWORD));
        nothing_went_around(&mut hidden, &squid, listener, connector).await;
        let known = format!(" 200 {USER}");
        assert!(squid.accesses().iter().filter(|line| line.ends_with(&known)).count() >= 6);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_named_by_both_programs_and_mended_without_a_restart() {
    within(LIMIT, async {
        let hidden = Hidden::new().await;
        let squid = Squid::asking(&hidden.hosts()).await;
        let section = hidden.proxy_section(&squid, "not-the-password");
        hidden.site.append("listener.yaml", &section);
        let listener = programs::start("listener", "relay", hidden.site.path(), ["listen", "-c", "listener.yaml"]);
        let connector = hidden.site.connector_with(&hidden.relay_way(), &section).await;
        for (process, field, expected) in [
            (&listener, "error", "does not accept the configured user and password (407)"),
            (&connector.process, "code", "C218"),
        ] {
            process
                .log()
                .entry(expected, 0, |entry| entry.field(field).is_some_and(|text| text.contains(expected)))
                .await;
        }
        hidden.site.write("proxy.password", PASSWORD);
        works(&connector).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_way_leaves_through_the_proxy_too() {
    within(LIMIT, async {
        let hidden = Hidden::new().await;
        let squid = Squid::open(&hidden.hosts()).await;
        let proxy = format!("proxy: {{ url: \"http://{}\", no_proxy: [10.0.0.0/8, other.invalid] }}\n", squid.address);
        let way = format!("direct: wss://{GATEWAY}:{}", hidden.gateway_port);
        let mut connector = hidden.site.connector_with(&way, &proxy).await;
        works(&connector).await;
        connector.process.stop().await;
        let line = format!("CONNECT {GATEWAY}:{} 200 ", hidden.gateway_port);
        until("the proxy's line", async || squid.accesses().iter().any(|seen| seen.starts_with(&line)).then_some(()))
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn loopback_is_never_asked_of_a_proxy() {
    within(LIMIT, async {
        let hidden = Hidden::new().await;
        let squid = Squid::open(&hidden.hosts()).await;
        let gateway = std::net::SocketAddr::new(hidden.site.gateway_ip, hidden.gateway_port);
        let proxy = format!("proxy: {{ url: \"http://{}\" }}\n", squid.address);
        let mut connector = hidden.site.connector_with(&direct_way(gateway), &proxy).await;
        works(&connector).await;
        connector.process.stop().await;
        assert_eq!(squid.accesses(), Vec::<String>::new());
        drop(hidden.gateway);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_goes_through_the_proxy_and_says_what_it_wants() {
    within(LIMIT, async {
        let hidden = Hidden::new().await;
        let squid = Squid::asking(&hidden.hosts()).await;
        let section = hidden.proxy_section(&squid, PASSWORD);
        hidden.site.append("listener.yaml", &section);
        let check = async || {
            let relay = tokio::process::Command::new(programs::program("relay"))
                .args(["check", "-c", "listener.yaml"])
                .current_dir(hidden.site.path())
                .kill_on_drop(true)
                .output();
            let output = relay.await.unwrap();
            (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let (code, told) = check().await;
        assert_eq!(code, Some(0), "{told}");
        assert!(told.contains(&format!("ok    proxy      http://{} CONNECT allowed", squid.address)), "{told}");
        assert!(told.contains("ok    round trip"), "{told}");
        hidden.site.write("proxy.password", "not-the-password");
        let (code, told) = check().await;
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains("fail  proxy") && told.contains("R105: "), "{told}");
    })
    .await;
}
