//! One test's world: a private folder with a CA, an issuer, keys and config files, services that stand in the cluster,
//! and the programs on it, started one by one.
//!
//! Programs bind addresses that belong to this world alone and ports that the kernel chooses; once a port is known it is
//! written into the config file, so that a program comes back where it was.
use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use tempfile::TempDir;

pub(crate) use self::files::FACES;
pub use self::files::{Face, direct_way, relay_way};
use crate::{
    nginx::Nginx,
    pki::{Pki, write},
    process::Process,
    programs,
    targets::{Refusing, Target},
    tokens::Issuer,
    topology::Connector,
    wait::private_loopback,
};

mod files;

/// The cluster's id.
pub const CLUSTER: &str = "factory-a";

/// What callers of a sidecar must show.
pub const IDENTITY_HEADER: &str = "an-identity-header-that-must-not-be-logged";

/// The subject that the connector itself has.
pub const CONNECTOR: &str = "connector";

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

    /// Adds lines to a file.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn append(&self, name: &str, lines: &str) {
        let text = std::fs::read_to_string(self.file(name)).expect("the file has been written");
        self.write(name, &format!("{text}{lines}"));
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
        self.connector_with(way, "").await
    }

    /// Starts a connector with this way to the cluster and more keys of the whole file.
    pub async fn connector_with(&self, way: &str, more: &str) -> Connector {
        self.write_connector(way);
        self.append("connector.yaml", more);
        let mut process = programs::start("connector", "gateway", self.path(), ["connect", "-c", "connector.yaml"]);
        let http = process.addresses("face-http", 5).await;
        let tcp = process.addresses("face-tcp", 3).await;
        let faces: Vec<_> = http.into_iter().chain(tcp).collect();
        self.pin("connector.yaml", "127.0.0.1".parse().expect("an address"), &faces);
        let admin = process.address("admin").await;
        Connector::new(process, admin, faces)
    }

    /// Starts a sidecar whose tokens come from this endpoint, and gives its port.
    pub async fn sidecar(&self, endpoint: SocketAddr) -> (Process, SocketAddr) {
        self.write_sidecar(endpoint);
        let mut sidecar = programs::start("sidecar", "identity", self.path(), ["sidecar", "-c", "sidecar.yaml"]);
        let address = sidecar.address("sidecar").await;
        (sidecar, address)
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
}
