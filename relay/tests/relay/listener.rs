//! Our own listener and sender, against our relay.
use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use daemon::{config::load, process::Context};
use futures_util::{SinkExt as _, StreamExt as _};
use identity::{
    ca::{Authority, LeafRequest},
    tls,
};
use relay::{
    dial::{Dialer, ReachError},
    sender::{Address, Credential, CredentialConfig, DialError, Request, Sender},
};
use rustls::ClientConfig;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{LISTEN_KEY, Relay, SEND_KEY, config, until, write_secret};

/// A listener in this process, forwarding `e` of a relay.
pub(crate) struct Listener {
    pub(crate) running: relay::listen::Running,
    pub(crate) context: Context,
    folder: TempDir,
}

impl Listener {
    pub(crate) async fn new(url: &str, more: &str, forward: &str, ca: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_secret(&folder.path().join("listen.key"), LISTEN_KEY);
        let mut trust = "trust: { system: false, files: [] }".to_owned();
        if let Some(ca) = ca {
            std::fs::write(folder.path().join("ca.pem"), ca).unwrap();
            trust = "trust: { system: false, files: [ca.pem] }".to_owned();
        }
        let text = format!(
            "hybrid_connections:
  - url: {url}
    credential: {{ sas: {{ rule: listen, key: {{ file: listen.key }} }} }}
    forward: {forward}
    {more}
{trust}
"
        );
        let file = folder.path().join("listener.yaml");
        std::fs::write(&file, text).unwrap();
        let context = Context::new("causeway_listener");
        let running = relay::listen::start(load(&file, &[]).unwrap(), context.clone()).await.unwrap();
        Self { running, context, folder }
    }

    pub(crate) async fn up(&self) {
        until("both control channels are up", || self.running.channels() == 2).await;
    }
}

/// A credential of a sender on `e`.
pub(crate) fn credential(folder: &Path, context: &Context) -> Credential {
    write_secret(&folder.join("send.key"), SEND_KEY);
    let config = CredentialConfig::Sas { rule: "send".into(), key: daemon::config::SecretRef::File("send.key".into()) };
    config.open(&"sb://127.0.0.1/e".parse().unwrap(), folder, context).unwrap()
}

pub(crate) fn plain_tls() -> Arc<ClientConfig> {
    tls::client(rustls::RootCertStore::empty(), &[])
}

/// A target that sends back what comes until the end, and then says so.
pub(crate) async fn echo() -> (SocketAddr, tokio::task::JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let mut echoes = tokio::task::JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            echoes.spawn(async move {
                let (mut read, mut write) = stream.split();
                if tokio::io::copy(&mut read, &mut write).await.is_ok() {
                    let _ = write.write_all(b"-- end").await;
                }
            });
        }
    });
    (address, tasks)
}

pub(crate) struct Tls {
    pub(crate) relay: Relay,
    pub(crate) ca: String,
    client: Arc<ClientConfig>,
}

pub(crate) async fn relay_with_tls() -> Tls {
    let authority = Authority::generate("test", Duration::from_secs(3600)).unwrap();
    let leaf = authority
        .issue(&LeafRequest {
            name: "relay".into(),
            hosts: vec!["127.0.0.1".into()],
            uris: Vec::new(),
            life: Duration::from_secs(3600),
            client: false,
        })
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tls.crt"), &leaf.certificate).unwrap();
    write_secret(&folder.path().join("tls.key"), leaf.key.expose());
    for (file, key) in [("listen.key", LISTEN_KEY), ("send.key", SEND_KEY)] {
        write_secret(&folder.path().join(file), key);
    }
    for file in ["second.key", "namespace.key"] {
        write_secret(&folder.path().join(file), crate::support::SECOND_KEY);
    }
    let listen = "{ address: 127.0.0.1:0, tls: { cert: tls.crt, key: { file: tls.key } } }";
    let relay = Relay::again(folder, &config(listen, "")).await;
    let mut roots = rustls::RootCertStore::empty();
    std::fs::write(relay.folder.path().join("ca.pem"), &authority.certificate).unwrap();
    let trust = tls::Trust { system: false, files: vec!["ca.pem".into()] };
    roots.roots.extend(tls::roots(&trust, relay.folder.path()).unwrap().roots);
    Tls { relay, ca: authority.certificate, client: tls::client(roots, &[b"http/1.1"]) }
}

#[tokio::test]
async fn bytes_go_through_tls_relay_and_listener_with_half_close() {
    let Tls { relay, ca, client } = relay_with_tls().await;
    let (target, _echo) = echo().await;
    let url = format!("sb://{}/e", relay.address);
    let listener = Listener::new(&url, "", &format!("{{ tunnel: \"{target}\" }}"), Some(&ca)).await;
    listener.up().await;
    assert!(listener.context.readiness.is_ready());
    let address: Address = url.parse().unwrap();
    let credential = credential(listener.folder.path(), &listener.context);
    let request = Request { protocols: &["causeway.v1"], ..Request::default() };
    let connected = Sender::new(Dialer::default(), client).dial(&address, &credential, request).await.unwrap();
    assert_eq!(connected.protocol.as_deref(), Some("causeway.v1"));
    let (mut read, mut write) = tokio::io::split(connected.stream);
    let sent: Vec<u8> = (0..3 << 20).map(|at: u32| ((at * 131) >> 5) as u8).collect();
    let expected = [&sent[..], b"-- end"].concat();
    let (written, received) = tokio::join!(
        async {
            write.write_all(&sent).await?;
            write.shutdown().await
        },
        async {
            let mut received = Vec::new();
            read.read_to_end(&mut received).await.map(|_| received)
        }
    );
    written.unwrap();
    assert!(received.unwrap() == expected, "bytes changed on the way");
}

#[tokio::test]
async fn a_relay_whose_certificate_is_not_trusted_is_named_as_such() {
    let Tls { relay, .. } = relay_with_tls().await;
    let folder = tempfile::tempdir().unwrap();
    let credential = credential(folder.path(), &Context::new("causeway_test"));
    let address: Address = format!("sb://{}/e", relay.address).parse().unwrap();
    let refused = Sender::new(Dialer::default(), plain_tls()).dial(&address, &credential, Request::default()).await;
    assert!(matches!(refused, Err(DialError::Untrusted { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_target_that_is_down_is_told_to_the_sender() {
    let relay = Relay::new().await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = format!("ws://{}/e", relay.address);
    let listener = Listener::new(&url, "", &format!("{{ tcp: \"{nobody}\" }}"), None).await;
    listener.up().await;
    let answer = relay.raw_sender().await;
    assert_eq!(answer.status, 502);
    assert!(
        answer.reason.starts_with("The listener cannot reach its target (connection refused)"),
        "{}",
        answer.reason
    );
    assert!(!answer.reason.contains(&nobody.to_string()), "the target's address is nobody's business");
}

#[tokio::test]
async fn text_and_binary_both_reach_a_plain_target_and_the_proxy_header_comes_first() {
    let relay = Relay::new().await;
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let forward = format!("{{ tcp: \"{}\", proxy_protocol: true }}", target.local_addr().unwrap());
    let url = format!("ws://{}/e", relay.address);
    let listener = Listener::new(&url, "channels: 2", &forward, None).await;
    listener.up().await;
    let (sender, accepted) = tokio::join!(relay.sender(""), target.accept());
    let (mut sender, mut stream) = (sender.unwrap(), accepted.unwrap().0);
    sender.send(Message::text("text ")).await.unwrap();
    sender.send(Message::binary(b"binary".to_vec())).await.unwrap();
    sender.close(None).await.unwrap();
    let mut came = Vec::new();
    stream.read_to_end(&mut came).await.unwrap();
    assert_eq!(&came[..14], b"\r\n\r\n\0\r\nQUIT\n\x21\x11");
    // The sender is on the relay's loopback, which must not pass for the target's own.
    assert_eq!(&came[16..20], [0, 0, 0, 0]);
    assert_eq!(&came[24..26], [0, 0]);
    assert!(came.ends_with(b"text binary"), "{came:?}");
}

#[tokio::test]
async fn a_sender_that_is_lost_is_a_reset_for_the_target_and_not_an_end() {
    let relay = Relay::new().await;
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let forward = format!("{{ tcp: \"{}\" }}", target.local_addr().unwrap());
    let listener = Listener::new(&format!("ws://{}/e", relay.address), "", &forward, None).await;
    listener.up().await;
    let (sender, accepted) = tokio::join!(relay.sender(""), target.accept());
    let mut stream = accepted.unwrap().0;
    let mut sender = sender.unwrap();
    sender.send(Message::binary(b"half of it".to_vec())).await.unwrap();
    let mut half = [0; 10];
    stream.read_exact(&mut half).await.unwrap();
    drop(sender);
    let end = stream.read(&mut half).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_target_that_is_lost_is_an_abrupt_end_for_the_sender() {
    let relay = Relay::new().await;
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let forward = format!("{{ tcp: \"{}\" }}", target.local_addr().unwrap());
    let listener = Listener::new(&format!("ws://{}/e", relay.address), "", &forward, None).await;
    listener.up().await;
    let (sender, accepted) = tokio::join!(relay.sender(""), target.accept());
    accepted.unwrap().0.set_zero_linger().unwrap();
    assert!(sender.unwrap().next().await.unwrap().is_err());
}

#[tokio::test]
async fn a_listener_comes_back_after_the_relay_restarts() {
    let relay = Relay::new().await;
    let (address, text) = (relay.address, config("{ address: ADDRESS }", "handshakes_per_address: 200"));
    let (target, _echo) = echo().await;
    let url = format!("ws://{address}/e");
    let listener = Listener::new(&url, "", &format!("{{ tcp: \"{target}\" }}"), None).await;
    listener.up().await;
    let folder = relay.stop().await;
    until("both control channels are down", || listener.running.channels() == 0).await;
    let relay = Relay::again(folder, &text.replace("ADDRESS", &address.to_string())).await;
    listener.up().await;
    let mut sender = relay.sender("").await.unwrap();
    sender.send(Message::binary(b"again".to_vec())).await.unwrap();
    assert_eq!(sender.next().await.unwrap().unwrap(), Message::binary(b"again".to_vec()));
}

#[tokio::test]
async fn a_refused_listener_is_not_ready_and_comes_up_when_its_key_is_mended() {
    let (target, _echo) = echo().await;
    let relay = Relay::new().await;
    let wrong =
        Listener::new(&format!("ws://{}/other", relay.address), "", &format!("{{ tcp: \"{target}\" }}"), None).await;
    let refusals =
        || relay.context.metrics.encode().contains("refusals_total{entity=\"other\",code=\"token_signature\"}");
    until("the relay has refused it", refusals).await;
    assert!(!wrong.context.readiness.is_ready());
    write_secret(&wrong.folder.path().join("listen.key"), crate::support::SECOND_KEY);
    wrong.up().await;
    assert!(wrong.context.readiness.is_ready());
}

#[tokio::test]
async fn draining_closes_control_channels_and_lets_rendezvous_finish() {
    let relay = Relay::new().await;
    let (target, _echo) = echo().await;
    let listener =
        Listener::new(&format!("ws://{}/e", relay.address), "", &format!("{{ tcp: \"{target}\" }}"), None).await;
    listener.up().await;
    let mut sender = relay.sender("").await.unwrap();
    sender.send(Message::binary(b"one".to_vec())).await.unwrap();
    assert_eq!(sender.next().await.unwrap().unwrap(), Message::binary(b"one".to_vec()));
    let shutdown = listener.context.shutdown.clone();
    let (outcome, ()) = tokio::join!(shutdown.run(Duration::from_secs(15)), async {
        until("control channels are closed", || listener.running.channels() == 0).await;
        until("the relay knows", || relay.context.metrics.encode().contains("active_listeners{entity=\"e\"} 0")).await;
        assert_eq!(relay.raw_sender().await.status, 404);
        sender.send(Message::binary(b"two".to_vec())).await.unwrap();
        assert_eq!(sender.next().await.unwrap().unwrap(), Message::binary(b"two".to_vec()));
        sender.close(None).await.unwrap();
        while sender.next().await.is_some_and(|message| message.is_ok()) {}
    });
    assert_eq!(outcome, daemon::shutdown::Outcome::Drained);
}

#[tokio::test]
async fn nobody_there_is_told_as_a_refused_connection() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let credential = credential(folder.path(), &Context::new("causeway_test"));
    let address: Address = format!("ws://{nobody}/e").parse().unwrap();
    let refused = Sender::new(Dialer::default(), plain_tls()).dial(&address, &credential, Request::default()).await;
    assert!(matches!(refused, Err(DialError::Reach(ReachError::Connect { .. }))), "{refused:?}");
    assert!(TcpStream::connect(nobody).await.is_err());
}
