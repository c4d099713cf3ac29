//! A relay as a process of its own, in a private folder, with keys, certificate and hybrid connections.
use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use causeway_tests::{
    pki::{Pki, write},
    process::{Process, Spec},
    programs,
    wait::private_loopback,
};
use identity::{sas, secret::Secret};
use tempfile::TempDir;

/// Core that a program under test gets to itself.
const CORE: &str = "1";

/// The folder, the keys, and the relay.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) relay: Process,
    pub(crate) address: SocketAddr,
    pub(crate) pki: Pki,
    listen_key: Secret,
    send_key: Secret,
    folder: TempDir,
}

impl World {
    /// Starts a relay with `entities` hybrid connections, `e0` and up.
    pub(crate) async fn start(entities: usize, pinned: bool) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let (ip, pki) = (private_loopback(), Pki::new());
        pki.write_server(folder.path(), &[ip]);
        let [listen_key, send_key] = ["listen.key", "send.key"].map(|name| {
            let mut key = [0; 32];
            aws_lc_rs::rand::fill(&mut key).expect("the system has random bytes");
            let key = BASE64.encode(key);
            write(&folder.path().join(name), &key);
            Secret::new(key)
        });
        write(&folder.path().join("relay.yaml"), &config(ip, 0, entities));
        let mut relay = Process::start(spec(folder.path(), pinned));
        let address = relay.address("relay").await;
        // A port of its own, so that it comes back where it was.
        write(&folder.path().join("relay.yaml"), &config(ip, address.port(), entities));
        Self { relay, address, pki, listen_key, send_key, folder }
    }

    /// The folder, for other programs that use the certificate.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A token of an hour for one hybrid connection.
    pub(crate) fn listen_token(&self, entity: &str) -> String {
        self.token("listen", &self.listen_key, entity)
    }

    /// The same for senders.
    pub(crate) fn send_token(&self, entity: &str) -> String {
        self.token("send", &self.send_key, entity)
    }

    fn token(&self, rule: &str, key: &Secret, entity: &str) -> String {
        let uri = format!("http://{}/{entity}", self.address.ip());
        sas::mint(&uri, rule, key, SystemTime::now() + Duration::from_secs(3600)).expose().to_owned()
    }
}

/// Fails when this process, and so the relay that it starts, may not hold so many connections.
pub(crate) fn check_descriptors(connections: usize) -> anyhow::Result<()> {
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
    let soft = line.split_whitespace().nth(3).and_then(|word| word.parse().ok()).unwrap_or(0);
    anyhow::ensure!(
        soft > connections,
        "{soft} file descriptors are too few: run `ulimit -n {}` first",
        connections * 2
    );
    Ok(())
}

/// All limits that a load from one machine would meet are raised; the others stay as they are.
fn config(ip: IpAddr, port: u16, entities: usize) -> String {
    let entities: String =
        (0..entities).map(|index| format!("  e{index}: {{ limits: {{ senders: 100000 }} }}\n")).collect();
    format!(
        "listen:
  - {{ address: \"{ip}:{port}\", tls: {{ cert: tls.crt, key: {{ file: tls.key }} }} }}
namespace: {ip}
rules:
  listen: {{ rights: [listen], keys: [{{ file: listen.key }}] }}
  send: {{ rights: [send], keys: [{{ file: send.key }}] }}
entities:
{entities}limits: {{ handshakes_per_address: 4096, handshakes: 16384, rendezvous: 4096, connections_per_address: 100000 }}
admin: {{ address: 127.0.0.1:0 }}
"
    )
}

fn spec(folder: &Path, pinned: bool) -> Spec {
    let spec = programs::spec("relay", "relay", folder, ["serve", "-c", "relay.yaml"]);
    if pinned { on_its_core(spec) } else { spec }
}

/// Starts the program through `taskset`, which becomes it.
pub(crate) fn on_its_core(spec: Spec) -> Spec {
    let mut args: Vec<OsString> = vec!["-c".into(), CORE.into(), spec.program.into()];
    args.extend(spec.args);
    Spec { program: "taskset".into(), args, ..spec }
}
