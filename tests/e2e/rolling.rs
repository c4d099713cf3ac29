//! A rolling restart of every component in turn, under load, loses no request: small ones on kept-alive and on new
//! connections, long downloads and uploads, and HTTP/2 streams that end within the grace period. What is restarted is
//! what an installation without a gap has twice: gateways with one identity, relays as two ways, a listener and a
//! connector whose replacement is there before the old one goes.

mod load;
mod service;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use causeway_tests::{
    process::Process,
    programs,
    site::{CLUSTER, Site, relay_way},
    topology::ready,
    wait::{private_loopback, until, within},
};
use serde_json::Value;

use self::{
    load::{Load, Places},
    service::{Balancer, Service},
};

const LIMIT: Duration = Duration::from_secs(180);

/// Where the connector's faces are, known beforehand, since two connectors share them.
fn free_place(ip: IpAddr) -> SocketAddr {
    // Nobody else has this address, so the port stays free.
    let listener = std::net::TcpListener::bind((ip, 0)).unwrap();
    listener.local_addr().unwrap()
}

/// What is restarted, and the load that must not notice.
struct World {
    gateways: Vec<Process>,
    connector: Process,
    load: Load,
    // Last, so that it outlives what runs on it.
    site: Site,
}

impl World {
    /// Two gateways with one identity, and what is behind them.
    async fn gateways(site: &Site, service: &Service) -> (Vec<Process>, Vec<SocketAddr>) {
        let exceptions = format!("exceptions: [\"{}\", \"{}\", ", service.http, service.h2);
        site.edit("gateway.yaml", "exceptions: [", &exceptions);
        site.edit("gateway.yaml", "hosts: { ", "hosts: { service.test: 127.0.0.1, ");
        site.append(
            "policy.yaml",
            &format!(
                "  - name: service
    who: {{ authenticator: tests, subjects: [connector] }}
    http: {{ hosts: [service.test], ports: [{}] }}
  - name: streams
    who: {{ authenticator: tests, subjects: [connector] }}
    tcp: {{ hosts: [service.test], ports: [{}] }}
",
                service.http.port(),
                service.h2.port()
            ),
        );
        let (other, text) = (private_loopback(), std::fs::read_to_string(site.file("gateway.yaml")).unwrap());
        site.write("gateway-2.yaml", &text.replace(&site.gateway_ip.to_string(), &other.to_string()));
        let (first, first_address) = site.gateway().await;
        let mut second = programs::start("gateway-2", "gateway", site.path(), ["serve", "-c", "gateway-2.yaml"]);
        let second_address = second.address("tunnel").await;
        site.edit("gateway-2.yaml", &format!("{other}:0"), &second_address.to_string());
        site.export_trust().await;
        (vec![first, second], vec![first_address, second_address])
    }

    /// A connector with these ways, and load through it.
    async fn new(site: Site, service: Service, gateways: Vec<Process>, ways: &[String]) -> Self {
        let ip = private_loopback();
        let places = Places { web: free_place(ip), service: free_place(ip), h2: free_place(ip) };
        let config = format!(
            "clusters:
  {CLUSTER}:
    trust: {{ file: {CLUSTER}.trust.yaml, follow: true }}
    ways:
{ways}
    token: {{ source: file, path: connector.token }}
trust: {{ system: false, files: [ca.pem] }}
faces:
  - {{ http: {web}, to: {CLUSTER}/web.test:{nginx}, as: connector, shared: true }}
  - {{ http: {http}, to: {CLUSTER}/service.test:{service_http}, as: connector, shared: true }}
  - {{ tcp: {h2}, to: {CLUSTER}/service.test:{service_h2}, as: connector, shared: true, allow_http: true }}
admin: {{ address: 127.0.0.1:0 }}
log: {{ level: debug }}
",
            ways = ways.iter().map(|way| format!("      - {way}")).collect::<Vec<_>>().join("\n"),
            nginx = site.nginx.address.port(),
            web = places.web,
            http = places.service,
            h2 = places.h2,
            service_http = service.http.port(),
            service_h2 = service.h2.port(),
        );
        site.write("connector.yaml", &config);
        let connector = connector(&site, "connector").await;
        let load = Load::start(places, service);
        Self { gateways, connector, load, site }
    }

    async fn restart_gateways(&mut self) {
        for gateway in &mut self.gateways {
            again("gateway", gateway).await;
            self.load.goes_on("a gateway was restarted").await;
        }
    }

    /// The new one is there before the old one goes.
    async fn replace_connector(&mut self) {
        let next = connector(&self.site, "connector-2").await;
        let mut old = std::mem::replace(&mut self.connector, next);
        assert_eq!(old.stop().await, Some(0), "the old connector");
        assert!(old.log().lines().iter().any(|line| line.contains("everything was finished")));
        self.load.goes_on("the connector was replaced").await;
    }
}

/// Starts a connector, and waits until it can do its part.
async fn connector(site: &Site, name: &str) -> Process {
    let mut process = programs::start(name, "gateway", site.path(), ["connect", "-c", "connector.yaml"]);
    let admin = process.address("admin").await;
    ready(name, admin).await;
    process
}

/// Stops a process, which must have finished everything, and starts it again.
async fn again(name: &str, process: &mut Process) {
    let lines = process.log().lines().len();
    assert_eq!(process.stop().await, Some(0), "{name}");
    let log = process.log().lines();
    assert!(log[lines..].iter().any(|line| line.contains("everything was finished")), "{name} cut something off");
    let lines = log.len();
    process.start_again();
    process.log().entry(format_args!("{name} to be started"), lines, |entry| entry.message() == "started").await;
}

/// Control channels of the cluster's listeners at a relay.
async fn channels(admin: SocketAddr) -> usize {
    let answer = causeway_tests::curl::Curl::new(format!("http://{admin}/statusz")).run().await;
    let status: Value = serde_json::from_str(&answer.text()).unwrap_or_default();
    status["relay"]["entities"][CLUSTER]["listeners"].as_array().map_or(0, Vec::len)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_in_direct_mode_loses_no_request() {
    within(LIMIT, async {
        let (site, service) = (Site::new().await, Service::start().await);
        let (gateways, addresses) = World::gateways(&site, &service).await;
        let ways: Vec<_> = addresses.iter().map(|address| format!("direct: wss://{address}")).collect();
        let mut world = World::new(site, service, gateways, &ways).await;
        world.load.goes_on("nothing was touched").await;
        world.restart_gateways().await;
        world.replace_connector().await;
        world.restart_gateways().await;
        world.load.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_in_relay_mode_loses_no_request() {
    within(LIMIT, async {
        let (site, service) = (Site::new().await, Service::start().await);
        let (gateways, addresses) = World::gateways(&site, &service).await;
        // As a Service of Kubernetes leads to whoever is there.
        let balancer = Balancer::start(addresses).await;

        // Two relays, each with its own name, and one certificate for both.
        let other = private_loopback();
        site.pki.write_server(site.path(), &[site.relay_ip, other]);
        let admin = format!("admin: {{ address: \"{}:0\" }}", site.relay_ip);
        site.edit("relay.yaml", "admin: { address: 127.0.0.1:0 }", &admin);
        let text = std::fs::read_to_string(site.file("relay.yaml")).unwrap();
        site.write("relay-2.yaml", &text.replace(&site.relay_ip.to_string(), &other.to_string()));
        let (mut first, first_address) = site.relay().await;
        let mut second = programs::start("relay-2", "relay", site.path(), ["serve", "-c", "relay-2.yaml"]);
        let second_address = second.address("relay").await;
        site.edit("relay-2.yaml", &format!("{other}:0"), &second_address.to_string());
        // The admin ports stay where they are.
        let admins = [first.address("admin").await, second.address("admin").await];
        for (file, admin) in ["relay.yaml", "relay-2.yaml"].into_iter().zip(admins) {
            site.edit(file, &format!("{}:0", admin.ip()), &admin.to_string());
        }

        site.write_listener(first_address, balancer.address);
        let entry = |relay: SocketAddr| {
            format!(
                "  - url: sb://{relay}/{CLUSTER}
    credential: {{ sas: {{ rule: {CLUSTER}-listen, key: {{ file: listen.key }} }} }}
    forward: {{ tunnel: \"{}\" }}
",
                balancer.address
            )
        };
        site.edit("listener.yaml", "trust:", &format!("{}trust:", entry(second_address)));
        let mut listener = programs::start("listener", "relay", site.path(), ["listen", "-c", "listener.yaml"]);
        ready("listener", listener.address("admin").await).await;
        let each = 2;
        let joined = async |expected: usize| {
            for admin in admins {
                until(format_args!("{expected} channels at {admin}"), async || {
                    (channels(admin).await == expected).then_some(())
                })
                .await;
            }
        };
        joined(each).await;

        let ways = [relay_way(first_address, CLUSTER), relay_way(second_address, CLUSTER)];
        let mut world = World::new(site, service, gateways, &ways).await;
        world.load.goes_on("nothing was touched").await;

        world.restart_gateways().await;
        for relay in [&mut first, &mut second] {
            again("relay", relay).await;
            joined(each).await;
            world.load.goes_on("a relay was restarted").await;
        }
        let mut next = programs::start("listener-2", "relay", world.site.path(), ["listen", "-c", "listener.yaml"]);
        ready("listener-2", next.address("admin").await).await;
        joined(2 * each).await;
        assert_eq!(listener.stop().await, Some(0), "the old listener");
        world.load.goes_on("the listener was replaced").await;
        world.replace_connector().await;
        world.load.finish().await;
    })
    .await;
}

/// Runs `gateway trust`.
async fn trust(site: &Site, arguments: &[&str]) {
    let mut command = tokio::process::Command::new(programs::program("gateway"));
    command.arg("trust").args(arguments).args(["-c", "gateway.yaml"]).current_dir(site.path()).kill_on_drop(true);
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The next CA is adopted on tunnels that the old one vouches for, and the tunnels after the exchange are vouched for by
/// it; who was not there when it was published is told so, and is not let in by any weaker form.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_of_the_clusters_ca_loses_no_request() {
    within(LIMIT, async {
        let (site, service) = (Site::new().await, Service::start().await);
        let (gateways, addresses) = World::gateways(&site, &service).await;
        let ways: Vec<_> = addresses.iter().map(|address| format!("direct: wss://{address}")).collect();
        let mut world = World::new(site, service, gateways, &ways).await;
        let site = &world.site;
        let file = site.file(&format!("{CLUSTER}.trust.yaml"));
        let certificates = || std::fs::read_to_string(&file).unwrap().matches("BEGIN CERTIFICATE").count();
        // Somebody who has the file from before and does not follow.
        std::fs::copy(&file, site.file("old.trust.yaml")).unwrap();
        let text = std::fs::read_to_string(site.file("connector.yaml")).unwrap();
        let (head, tail) = (text.find("faces:").unwrap(), text.find("admin:").unwrap());
        let text = format!("{}{}", &text[..head], &text[tail..]);
        site.write("old.yaml", &text.replace(&format!("{CLUSTER}.trust.yaml, follow: true"), "old.trust.yaml"));

        assert_eq!(certificates(), 1);
        trust(site, &["rotate"]).await;
        until("the next CA to be adopted", async || (certificates() == 2).then_some(())).await;
        world.load.goes_on("the next CA was published").await;
        trust(&world.site, &["rotate", "--dangerous-now"]).await;
        for gateway in &world.gateways {
            gateway.log().entry("another leaf", 0, |entry| entry.message() == "gateway certificate renewed").await;
        }
        world.restart_gateways().await;
        world.replace_connector().await;

        let site = &world.site;
        let mut late = programs::start("late connector", "gateway", site.path(), ["connect", "-c", "old.yaml"]);
        let refused = late
            .log()
            .entry("the late connector to be told", 0, |entry| entry.field("code").as_deref() == Some("C210"))
            .await;
        assert!(refused.line.contains("the cluster's CA was rotated"), "{}", refused.line);
        let admin = late.address("admin").await;
        assert_eq!(causeway_tests::topology::readiness(admin).await, Some(503));
        world.load.finish().await;
    })
    .await;
}
