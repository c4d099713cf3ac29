//! A relay alone, with TLS from an own CA, and the hybrid connections that tests of foreign clients need.
use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use identity::{ca::spki_sha256, sas, secret::Secret};
use tempfile::TempDir;

use crate::{
    pki::{Pki, write},
    process::Process,
    programs,
    topology::ready,
    wait::private_loopback,
};

/// The rule that may listen.
pub const LISTEN: &str = "listen";

/// The rule that may send.
pub const SEND: &str = "send";

/// How long the tokens of tests live.
const TOKEN_LIFE: Duration = Duration::from_secs(1800);

/// A running relay and its keys.
#[derive(Debug)]
pub struct Namespace {
    /// The relay.
    pub relay: Process,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its admin port.
    pub admin: SocketAddr,
    /// The CA of its certificate.
    pub pki: Pki,
    /// Key of the rule [`LISTEN`] of each hybrid connection.
    pub listen_key: String,
    /// Key of the rule [`SEND`] of each hybrid connection.
    pub send_key: String,
    // Last, so that it outlives what runs in it.
    folder: TempDir,
}

impl Namespace {
    /// With one hybrid connection for WebSockets, `ws`; one for HTTP, `http`; and `open`, for both kinds of senders without
    /// a token.
    pub async fn new() -> Self {
        let open = "kind: both, anonymous_senders: true";
        Self::with(&[("ws", "kind: websocket"), ("http", "kind: http"), ("open", open)], "").await
    }

    /// With these hybrid connections, each a name and settings besides its rules, and more settings of the whole file.
    pub async fn with(entities: &[(&str, &str)], more: &str) -> Self {
        Self::prepare(|ip| config(ip, entities, more)).await
    }

    /// With this file, for an address and its port 0.
    ///
    /// # Panics
    /// When the folder cannot be written.
    pub async fn prepare(config: impl FnOnce(IpAddr) -> String) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let (pki, ip) = (Pki::new(), private_loopback());
        let [listen_key, send_key] = [LISTEN, SEND].map(|name| {
            let mut key = [0; 32];
            aws_lc_rs::rand::fill(&mut key).expect("the system has random bytes");
            let key = BASE64.encode(key);
            write(&folder.path().join(format!("{name}.key")), &key);
            key
        });
        write(&folder.path().join("ca.pem"), pki.certificate());
        pki.write_server(folder.path(), &[ip]);
        let (file, text) = (folder.path().join("relay.yaml"), config(ip));
        write(&file, &text);
        let mut relay = programs::start("relay", "relay", folder.path(), ["serve", "-c", "relay.yaml"]);
        let address = relay.address("relay").await;
        let admin = relay.address("admin").await;
        // It comes back where it was.
        write(&file, &text.replacen(&format!("{ip}:0"), &address.to_string(), 1));
        Self { relay, address, admin, pki, listen_key, send_key, folder }
    }

    /// Starts a listener of ours on a hybrid connection, and waits until it is ready; `forward` is that section's content.
    pub async fn listener(&self, entity: &str, forward: &str) -> Process {
        let config = format!(
            "hybrid_connections:
  - url: sb://{}/{entity}
    credential: {{ sas: {{ rule: {LISTEN}, key: {{ file: listen.key }} }} }}
    forward: {{ {forward} }}
trust: {{ system: false, files: [ca.pem] }}
admin: {{ address: 127.0.0.1:0 }}
log: {{ level: debug }}
",
            self.address
        );
        write(&self.path().join("listener.yaml"), &config);
        let mut listener = programs::start("listener", "relay", self.path(), ["listen", "-c", "listener.yaml"]);
        let admin = listener.address("admin").await;
        ready("listener", admin).await;
        listener
    }

    /// Its folder, with `ca.pem`, `listen.key` and `send.key`.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// SHA-256 of the public key in the relay's certificate, base64: how Chromium is told whom to believe.
    ///
    /// # Panics
    /// Never: the certificate is ours.
    pub fn certified_key(&self) -> String {
        let certificate = std::fs::read_to_string(self.path().join("tls.crt")).expect("the file has been written");
        let digest = spki_sha256(&certificate).expect("the certificate is ours");
        let byte = |at| u8::from_str_radix(&digest[at..at + 2], 16).expect("the digest is hex");
        BASE64.encode((0..digest.len()).step_by(2).map(byte).collect::<Vec<_>>())
    }

    /// Where a WebSocket listener of this hybrid connection dials.
    pub fn listen_url(&self, entity: &str) -> String {
        format!("wss://{}/$hc/{entity}?sb-hc-action=listen", self.address)
    }

    /// Where a WebSocket sender dials; `rest` is suffix and query behind the hybrid connection's name.
    pub fn connect_url(&self, entity: &str, rest: &str) -> String {
        let mark = if rest.contains('?') { '&' } else { '?' };
        format!("wss://{}/$hc/{entity}{rest}{mark}sb-hc-action=connect", self.address)
    }

    /// Where an HTTP sender asks.
    pub fn url(&self, path: &str) -> String {
        format!("https://{}/{path}", self.address)
    }

    /// A token of the rule [`SEND`].
    pub fn send_token(&self, entity: &str) -> String {
        self.token(SEND, &self.send_key, entity)
    }

    /// A token of the rule [`LISTEN`].
    pub fn listen_token(&self, entity: &str) -> String {
        self.token(LISTEN, &self.listen_key, entity)
    }

    fn token(&self, rule: &str, key: &str, entity: &str) -> String {
        let audience = format!("http://{}/{entity}", self.address);
        sas::mint(&audience, rule, &Secret::new(key), SystemTime::now() + TOKEN_LIFE).expose().to_owned()
    }
}

fn config(ip: IpAddr, entities: &[(&str, &str)], more: &str) -> String {
    let mut config = format!(
        "listen:
  - address: {ip}:0
    tls: {{ cert: tls.crt, key: {{ file: tls.key }} }}
namespace: {ip}
admin: {{ address: 127.0.0.1:0 }}
log: {{ level: debug }}
{more}
entities:
"
    );
    for (name, settings) in entities {
        config.push_str(&format!(
            "  {name}:
    {}
    rules:
      {LISTEN}: {{ rights: [listen], keys: [{{ file: listen.key }}] }}
      {SEND}: {{ rights: [send], keys: [{{ file: send.key }}] }}
",
            settings.replace(", ", "\n    "),
        ));
    }
    config
}
