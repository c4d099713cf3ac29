//! One test's world: a private folder with a CA, an issuer, keys and config files, services that stand in the cluster,
//! and the programs on it; and the two topologies as they are usually wired.
//!
//! Programs bind addresses that belong to this world alone and ports that the kernel chooses; once a port is known it is
//! written into the config file, so that a program comes back where it was.
use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use tempfile::TempDir;

use crate::{
    nginx::Nginx,
    pki::{Pki, write},
    process::Process,
    programs,
    targets::{Refusing, Target},
    token_endpoint::{CLIENT_ID, CLIENT_SECRET, TENANT},
    tokens::{ISSUER, Issuer, SUBJECT},
    wait::{private_loopback, until},
};

/// The cluster's id.
pub const CLUSTER: &str = "factory-a";

/// What callers of a sidecar must show.
pub const IDENTITY_HEADER: &str = "an-identity-header-that-must-not-be-logged";

/// The subject that the connector itself has.
pub const CONNECTOR: &str = "connector";

/// Local ports of the connector, in the order of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// HTTP as the caller, to nginx.
    Caller,
    /// HTTP as the connector, to nginx.
    Web,
    /// HTTP to a host that no rule names.
    Denied,
    /// HTTP to a host that a rule names and nothing resolves.
    Unresolvable,
    /// HTTP to a port on which nobody listens.
    Refused,
    /// TCP to the echo service.
    Echo,
    /// TCP to the checksum service.
    Checksum,
    /// TCP to a host that no rule names.
    DeniedTcp,
}

/// Every face, in the order of the file.
const FACES: [(Face, &str, &str); 8] = [
    (Face::Caller, "http", "caller"),
    (Face::Web, "http", "connector"),
    (Face::Denied, "http", "connector"),
    (Face::Unresolvable, "http", "connector"),
    (Face::Refused, "http", "connector"),
    (Face::Echo, "tcp", "connector"),
    (Face::Checksum, "tcp", "connector"),
    (Face::DeniedTcp, "tcp", "connector"),
];

/// The folder, the keys and the services; programs are started on it one by one.
#[derive(Debug)]
pub struct Site {
    /// nginx in the cluster.
    pub nginx: Nginx,
    /// Echo service in the cluster.
    pub echo: Target,
    /// Checksum service in the cluster.
    pub checksum: Target,
    /// A closed port in the cluster.
    pub refusing: Refusing,
    /// CA of the relay's certificate and of other outer TLS.
    pub pki: Pki,
    /// Issuer of actors' and subjects' tokens.
    pub issuer: Issuer,
    /// An address for the gateway that only this world uses.
    pub gateway_ip: IpAddr,
    /// An address for the relay that only this world uses.
    pub relay_ip: IpAddr,
    // Last, so that it outlives what runs in it.
    folder: TempDir,
}

impl Site {
    /// Makes folder, keys, files, and starts the services.
    ///
    /// # Panics
    /// When the folder cannot be written.
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let site = Self {
            nginx: Nginx::start(folder.path()),
            echo: Target::echo().await,
            checksum: Target::checksum().await,
            refusing: Refusing::new(),
            pki: Pki::new(),
            issuer: Issuer::new(format!("causeway://{CLUSTER}")),
            gateway_ip: private_loopback(),
            relay_ip: private_loopback(),
            folder,
        };
        site.write("jwks.json", &site.issuer.jwks());
        site.write("connector.token", &site.issuer.subject(CONNECTOR));
        site.write("ca.pem", site.pki.certificate());
        site.pki.write_server(site.path(), &[site.relay_ip]);
        for name in ["listen.key", "send.key"] {
            let mut key = [0; 32];
            aws_lc_rs::rand::fill(&mut key).expect("the system has random bytes");
            site.write(name, &BASE64.encode(key));
        }
        site.write("gateway.yaml", &site.gateway_config());
        site.write("policy.yaml", &site.policy());
        site.write("relay.yaml", &site.relay_config());
        site
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file, private to us.
    pub fn write(&self, name: &str, text: &str) {
        write(&self.file(name), text);
    }

    /// A file in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Replaces text in a file.
    ///
    /// # Panics
    /// When the file does not hold `from`.
    pub fn edit(&self, name: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.file(name)).expect("the file has been written");
        assert!(text.contains(from), "{name} does not hold {from:?}:\n{text}");
        self.write(name, &text.replacen(from, to, 1));
    }

    /// Starts a gateway and gives its tunnel port.
    pub async fn gateway(&self) -> (Process, SocketAddr) {
        let mut gateway = programs::start("gateway", "gateway", self.path(), ["serve", "-c", "gateway.yaml"]);
        let address = gateway.address("tunnel").await;
        self.pin("gateway.yaml", self.gateway_ip, &[address]);
        (gateway, address)
    }

    /// Writes `factory-a.trust.yaml` as the cluster's owner does; the gateway has made its identity by then.
    ///
    /// # Panics
    /// When `gateway trust export` fails.
    pub async fn export_trust(&self) {
        let output = tokio::process::Command::new(programs::program("gateway"))
            .args(["trust", "export", "-c", "gateway.yaml"])
            .current_dir(self.path())
            .kill_on_drop(true)
            .output()
            .await
            .expect("the gateway can be started");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "gateway trust export: {complaint}");
        self.write(&format!("{CLUSTER}.trust.yaml"), &String::from_utf8_lossy(&output.stdout));
    }

    /// Starts a relay and gives its address.
    pub async fn relay(&self) -> (Process, SocketAddr) {
        let mut relay = programs::start("relay", "relay", self.path(), ["serve", "-c", "relay.yaml"]);
        let address = relay.address("relay").await;
        self.pin("relay.yaml", self.relay_ip, &[address]);
        (relay, address)
    }

    /// Starts a listener between a relay and a gateway.
    pub fn listener(&self, relay: SocketAddr, gateway: SocketAddr) -> Process {
        self.write_listener(relay, gateway);
        programs::start("listener", "relay", self.path(), ["listen", "-c", "listener.yaml"])
    }

    /// Writes `listener.yaml` without starting anything.
    pub fn write_listener(&self, relay: SocketAddr, gateway: SocketAddr) {
        self.write(
            "listener.yaml",
            &format!(
                "hybrid_connections:
  - url: sb://{relay}/{CLUSTER}
    credential: {{ sas: {{ rule: {CLUSTER}-listen, key: {{ file: listen.key }} }} }}
    forward: {{ tunnel: \"{gateway}\" }}
trust: {{ system: false, files: [ca.pem] }}
admin: {{ address: 127.0.0.1:0 }}
log: {{ level: debug }}
"
            ),
        );
    }

    /// Starts a connector that goes straight to a gateway.
    pub async fn direct_connector(&self, gateway: SocketAddr) -> Connector {
        self.connector(&direct_way(gateway)).await
    }

    /// Starts a connector that goes through a relay.
    pub async fn relay_connector(&self, relay: SocketAddr) -> Connector {
        self.connector(&relay_way(relay, CLUSTER)).await
    }

    /// Starts a connector with this way to the cluster.
    pub async fn connector(&self, way: &str) -> Connector {
        self.write_connector(way);
        let mut process = programs::start("connector", "gateway", self.path(), ["connect", "-c", "connector.yaml"]);
        let http = process.addresses("face-http", 5).await;
        let tcp = process.addresses("face-tcp", 3).await;
        let faces: Vec<_> = http.into_iter().chain(tcp).collect();
        self.pin("connector.yaml", "127.0.0.1".parse().expect("an address"), &faces);
        let admin = process.address("admin").await;
        Connector { process, faces, admin }
    }

    fn write_connector(&self, way: &str) {
        let mut config = format!(
            "clusters:
  {CLUSTER}:
    trust: {{ file: {CLUSTER}.trust.yaml }}
    ways:
      - {way}
    token: {{ source: file, path: connector.token }}
trust: {{ system: false, files: [ca.pem] }}
faces:
"
        );
        for (face, kind, speaks) in FACES {
            let target = self.target(face);
            config.push_str(&format!("  - {{ {kind}: 127.0.0.1:0, to: {CLUSTER}/{target}, as: {speaks} }}\n"));
        }
        config.push_str("admin: { address: 127.0.0.1:0 }\nlog: { level: debug }\n");
        self.write("connector.yaml", &config);
    }

    /// Starts a sidecar whose tokens come from this endpoint, and gives its port.
    pub async fn sidecar(&self, endpoint: SocketAddr) -> (Process, SocketAddr) {
        self.write_sidecar(endpoint);
        let mut sidecar = programs::start("sidecar", "identity", self.path(), ["sidecar", "-c", "sidecar.yaml"]);
        let address = sidecar.address("sidecar").await;
        (sidecar, address)
    }

    fn write_sidecar(&self, endpoint: SocketAddr) {
        self.write("client.secret", CLIENT_SECRET);
        self.write("header.secret", IDENTITY_HEADER);
        self.write(
            "sidecar.yaml",
            &format!(
                "listen: 127.0.0.1:0
source:
  source: client_secret
  authority: https://{endpoint}
  tenant: {TENANT}
  client_id: {CLIENT_ID}
  client_secret: {{ file: client.secret }}
  ca: ca.pem
faces: {{ app_service: {{ header: {{ file: header.secret }} }} }}
allow: [https://storage.azure.com]
admin: {{ address: 127.0.0.1:0 }}
log: {{ level: debug }}
"
            ),
        );
    }

    /// Writes a config file of every program, for those who only read them.
    pub async fn prepare_all(&self) {
        let nobody = self.refusing.address;
        self.write_listener(nobody, nobody);
        self.write_connector(&relay_way(nobody, CLUSTER));
        self.write_sidecar(nobody);
        let (mut gateway, _) = self.gateway().await;
        self.export_trust().await;
        gateway.kill().await;
    }

    /// The CA certificate in the trust file, PEM.
    ///
    /// # Panics
    /// When there is none.
    pub fn cluster_ca(&self) -> String {
        let text =
            std::fs::read_to_string(self.file(&format!("{CLUSTER}.trust.yaml"))).expect("the trust file is there");
        let start = text.find("-----BEGIN CERTIFICATE").expect("a trust file holds a certificate");
        let end = text[start..].find("-----END CERTIFICATE-----").expect("a certificate ends") + start;
        // However YAML wraps it, PEM is lines without indentation.
        let body = text[start..end].replace("\\n", "\n");
        let lines: Vec<_> = body.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        format!("{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    }

    /// Where a face leads, by names that only the gateway can resolve.
    pub fn target(&self, face: Face) -> String {
        match face {
            Face::Caller | Face::Web => format!("web.test:{}", self.nginx.address.port()),
            Face::Denied => format!("denied.test:{}", self.nginx.address.port()),
            Face::Unresolvable => format!("nowhere.test:{}", self.nginx.address.port()),
            Face::Refused => format!("refusing.test:{}", self.refusing.address.port()),
            Face::Echo => format!("echo.test:{}", self.echo.address.port()),
            Face::Checksum => format!("checksum.test:{}", self.checksum.address.port()),
            Face::DeniedTcp => format!("denied.test:{}", self.echo.address.port()),
        }
    }

    /// Writes the ports that the kernel chose in place of the first `:0` of this address; a file that has its ports
    /// already stays as it is.
    fn pin(&self, file: &str, ip: IpAddr, addresses: &[SocketAddr]) {
        let open = format!("{ip}:0");
        for address in addresses {
            if std::fs::read_to_string(self.file(file)).is_ok_and(|text| text.contains(&open)) {
                self.edit(file, &open, &address.to_string());
            }
        }
    }

    fn gateway_config(&self) -> String {
        let mut exceptions = Vec::new();
        for target in [self.nginx.address, self.echo.address, self.checksum.address, self.refusing.address] {
            exceptions.push(format!("\"{target}\""));
        }
        format!(
            "cluster: {CLUSTER}
listen: {{ address: {ip}:0, names: [\"{ip}\"] }}
identity: {{ directory: identity }}
networks:
  hosts: {{ web.test: 127.0.0.1, echo.test: 127.0.0.1, checksum.test: 127.0.0.1, refusing.test: 127.0.0.1, denied.test: 127.0.0.1 }}
  exceptions: [{exceptions}]
authenticators:
  tests: {{ issuer: {ISSUER}, audience: \"causeway://{CLUSTER}\", jwks: {{ file: jwks.json }} }}
policy: policy.yaml
admin: {{ address: 127.0.0.1:0 }}
log: {{ level: debug }}
",
            ip = self.gateway_ip,
            exceptions = exceptions.join(", "),
        )
    }

    fn policy(&self) -> String {
        format!(
            "rules:
  - name: hold-a-tunnel
    who: {{ authenticator: tests, subjects: [{CONNECTOR}] }}
    describe: {{}}
  - name: web
    who: {{ authenticator: tests, subjects: [{SUBJECT}, {CONNECTOR}] }}
    http: {{ hosts: [web.test, nowhere.test], ports: [{web}] }}
  - name: refusing
    who: {{ authenticator: tests, subjects: [{CONNECTOR}] }}
    http: {{ hosts: [refusing.test], ports: [{refusing}] }}
  - name: bytes
    who: {{ authenticator: tests, subjects: [{CONNECTOR}] }}
    tcp: {{ hosts: [echo.test, checksum.test], ports: [{echo}, {checksum}] }}
",
            web = self.nginx.address.port(),
            refusing = self.refusing.address.port(),
            echo = self.echo.address.port(),
            checksum = self.checksum.address.port(),
        )
    }

    fn relay_config(&self) -> String {
        format!(
            "listen:
  - address: {ip}:0
    tls: {{ cert: tls.crt, key: {{ file: tls.key }} }}
namespace: {ip}
entities:
  {CLUSTER}:
    kind: websocket
    rules:
      {CLUSTER}-listen: {{ rights: [listen], keys: [{{ file: listen.key }}] }}
      {CLUSTER}-send: {{ rights: [send], keys: [{{ file: send.key }}] }}
admin: {{ address: 127.0.0.1:0 }}
log: {{ level: debug }}
",
            ip = self.relay_ip,
        )
    }
}

/// The way straight to a gateway.
pub fn direct_way(gateway: SocketAddr) -> String {
    format!("direct: wss://{gateway}")
}

/// The way through a hybrid connection of a relay.
pub fn relay_way(relay: SocketAddr, path: &str) -> String {
    format!(
        "hybrid_connection: sb://{relay}/{path}
        credential: {{ sas: {{ rule: {CLUSTER}-send, key: {{ file: send.key }} }} }}"
    )
}

/// A running connector.
#[derive(Debug)]
pub struct Connector {
    /// The process.
    pub process: Process,
    /// Its admin port.
    pub admin: SocketAddr,
    faces: Vec<SocketAddr>,
}

impl Connector {
    /// Address of a face.
    ///
    /// # Panics
    /// Never: every face is in the file.
    pub fn address(&self, face: Face) -> SocketAddr {
        self.faces[FACES.iter().position(|(known, ..)| *known == face).expect("every face is in the file")]
    }

    /// Base URL of an HTTP face.
    pub fn url(&self, face: Face) -> String {
        format!("http://{}", self.address(face))
    }

    /// Waits until `/readyz` says that it can do its part: at least one cluster is reachable.
    pub async fn ready(&self) {
        ready("connector", self.admin).await;
    }
}

/// Waits until a process's `/readyz` answers 200.
pub async fn ready(name: &str, admin: SocketAddr) {
    until(format_args!("{name} to be ready"), async || (readiness(admin).await == Some(200)).then_some(())).await;
}

/// Status of `/readyz`; `None` without an answer.
pub async fn readiness(admin: SocketAddr) -> Option<u16> {
    let answer = crate::curl::Curl::new(format!("http://{admin}/readyz")).run().await;
    (answer.status != 0).then_some(answer.status)
}

/// Everything wired and ready.
#[derive(Debug)]
pub struct Topology {
    /// Outside of the cluster.
    pub connector: Connector,
    /// The gateway.
    pub gateway: Process,
    /// The gateway's tunnel port.
    pub gateway_address: SocketAddr,
    /// The relay and its listener; none in direct mode.
    pub relay: Option<(Process, Process)>,
    relay_address: Option<SocketAddr>,
    /// What it all stands on.
    pub site: Site,
}

impl Topology {
    /// Connector → gateway.
    pub async fn direct() -> Self {
        let site = Site::new().await;
        let (gateway, gateway_address) = site.gateway().await;
        site.export_trust().await;
        let connector = site.direct_connector(gateway_address).await;
        connector.ready().await;
        Self { connector, gateway, gateway_address, relay: None, relay_address: None, site }
    }

    /// Connector → relay ⇐ listener → gateway.
    pub async fn relay() -> Self {
        let site = Site::new().await;
        let (gateway, gateway_address) = site.gateway().await;
        site.export_trust().await;
        let (relay, relay_address) = site.relay().await;
        let mut listener = site.listener(relay_address, gateway_address);
        let admin = listener.address("admin").await;
        ready("listener", admin).await;
        let connector = site.relay_connector(relay_address).await;
        connector.ready().await;
        Self {
            connector,
            gateway,
            gateway_address,
            relay: Some((relay, listener)),
            relay_address: Some(relay_address),
            site,
        }
    }

    /// The relay's address.
    ///
    /// # Panics
    /// In direct mode.
    pub fn relay_address(&self) -> SocketAddr {
        self.relay_address.expect("this topology has a relay")
    }
}
