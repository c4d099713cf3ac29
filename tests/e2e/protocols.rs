//! Every protocol that clients and services speak crosses the tunnel as if they met directly: real clients, real services,
//! straight and through a relay.
mod connections;
mod contract;
mod grpc;
mod http;
mod paths;
mod websocket;

use std::{net::SocketAddr, path::Path, time::Duration};

use causeway_tests::{
    driver::Driver,
    node,
    process::Process,
    programs,
    site::{CLUSTER, CONNECTOR, Site, direct_way, relay_way},
    tokens::SUBJECT,
    topology::ready,
};
use serde_json::{Value, json};

pub(crate) const LIMIT: Duration = Duration::from_secs(150);

/// How a connector reaches its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Direct,
    Relay,
}

/// What is special about a world.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Services in the cluster, by the names that the gateway resolves.
    pub(crate) targets: Vec<(&'static str, SocketAddr)>,
    /// The paths on them that are granted to HTTP; any by default.
    pub(crate) paths: Option<&'static str>,
    /// Faces of the connector, without their places.
    pub(crate) faces: Vec<Face>,
    /// Further lines of `gateway.yaml`, of the connector's file, and rules.
    pub(crate) gateway: String,
    pub(crate) connector: String,
    pub(crate) rules: String,
}

/// A face: its kind, and its other keys.
pub(crate) type Face = (&'static str, String);

/// Programs, services and faces.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) connector: Process,
    pub(crate) gateway: Process,
    pub(crate) gateway_address: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// Addresses of the faces, in the order of the plan.
    pub(crate) faces: Vec<SocketAddr>,
    _relay: Option<(Process, Process)>,
    pub(crate) site: Site,
}

/// An HTTP face that leads to a target as the connector.
pub(crate) fn face(kind: &'static str, name: &str, address: SocketAddr) -> Face {
    (kind, format!("to: {CLUSTER}/{name}:{}, as: connector", address.port()))
}

impl World {
    pub(crate) async fn new(mode: Mode, plan: Plan) -> Self {
        let site = Site::new().await;
        configure_gateway(&site, &plan);
        let (gateway, gateway_address) = site.gateway().await;
        site.export_trust().await;
        let (way, relay) = match mode {
            Mode::Direct => (direct_way(gateway_address), None),
            Mode::Relay => {
                let (relay, address) = site.relay().await;
                let mut listener = site.listener(address, gateway_address);
                let admin = listener.address("admin").await;
                ready("listener", admin).await;
                (relay_way(address, CLUSTER), Some((relay, listener)))
            }
        };
        site.write("protocols.yaml", &connector_config(&way, &plan));
        let mut connector = programs::start("connector", "gateway", site.path(), ["connect", "-c", "protocols.yaml"]);
        let mut faces = Vec::new();
        for (index, (kind, _)) in plan.faces.iter().enumerate() {
            let before = plan.faces[..index].iter().filter(|(other, _)| other == kind).count();
            faces.push(connector.addresses(&format!("face-{kind}"), before + 1).await[before]);
        }
        let admin = connector.address("admin").await;
        ready("connector", admin).await;
        Self { connector, gateway, gateway_address, admin, faces, _relay: relay, site }
    }

    pub(crate) fn url(&self, face: usize, path: &str) -> String {
        format!("http://{}{path}", self.faces[face])
    }
}

fn configure_gateway(site: &Site, plan: &Plan) {
    let mut rules = plan.rules.clone();
    for (name, address) in &plan.targets {
        site.edit("gateway.yaml", "hosts: { ", &format!("hosts: {{ {name}: 127.0.0.1, "));
        site.edit("gateway.yaml", "exceptions: [", &format!("exceptions: [\"{address}\", "));
        let who = format!("{{ authenticator: tests, subjects: [{SUBJECT}, {CONNECTOR}] }}");
        let (hosts, ports) = (format!("hosts: [{name}]"), format!("ports: [{}]", address.port()));
        let paths = plan.paths.unwrap_or("/**");
        rules.push_str(&format!(
            "  - {{ name: http-{name}, who: {who}, http: {{ {hosts}, {ports}, paths: [\"{paths}\"], upgrade: [websocket] }} }}
  - {{ name: tcp-{name}, who: {who}, tcp: {{ {hosts}, {ports}, bypasses_http: true }} }}
"
        ));
    }
    site.append("policy.yaml", &rules);
    site.append("gateway.yaml", &plan.gateway);
}

fn connector_config(way: &str, plan: &Plan) -> String {
    let mut config = format!(
        "clusters:
  {CLUSTER}:
    trust: {{ file: {CLUSTER}.trust.yaml }}
    ways:
      - {way}
    token: {{ source: file, path: connector.token }}
trust: {{ system: false, files: [ca.pem] }}
admin: {{ address: 127.0.0.1:0 }}
log: {{ level: debug }}
{}faces:
",
        plan.connector
    );
    for (kind, keys) in &plan.faces {
        config.push_str(&format!("  - {{ {kind}: 127.0.0.1:0, {keys} }}\n"));
    }
    config
}

/// Node as a service in the cluster: `http`, `h2c` or `tls`.
pub(crate) async fn node_service(folder: &Path, options: Value) -> (Driver, SocketAddr) {
    let mut service = node::script("node service", "http-service.cjs", folder, &options);
    let address = service.process().address("http").await;
    (service, address)
}

/// The same in the clear.
pub(crate) async fn plain_service(folder: &Path, kind: &str) -> (Driver, SocketAddr) {
    node_service(folder, json!({ "kind": kind })).await
}
