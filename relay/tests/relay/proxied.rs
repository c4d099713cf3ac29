//! A listener whose relay is behind a proxy: the proxy alone resolves names, and the relay may make it dial no more than
//! without one (SD-8).
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{SinkExt as _, StreamExt as _};
use identity::{
    ca::{Authority, LeafRequest},
    tls::ServerTls,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;

use crate::{listener::Listener, support::until};

const RELAY: &str = "relay.factory.invalid";

/// A proxy behind which every host is one hostile relay: it takes control channels, says these addresses on each, and
/// records what it was asked to connect to.
struct Proxy {
    url: String,
    ca: String,
    asked: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<()>,
}

impl Proxy {
    async fn new(addresses: &[&str]) -> Self {
        let authority = Authority::generate("relay CA", std::time::Duration::from_secs(3600)).unwrap();
        let leaf = authority
            .issue(&LeafRequest {
                name: "relay".into(),
                hosts: vec![RELAY.into(), "*.factory.invalid".into()],
                uris: Vec::new(),
                life: std::time::Duration::from_secs(3600),
                client: false,
            })
            .unwrap();
        let tls = ServerTls::from_pem(&leaf.certificate, leaf.key.expose(), &[b"http/1.1"]).unwrap().current();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let addresses: Arc<[String]> = addresses.iter().map(|address| (*address).to_owned()).collect();
        let mut serving = JoinSet::new();
        let record = Arc::clone(&asked);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, tls.clone().into(), Arc::clone(&addresses), Arc::clone(&record)));
            }
        });
        Self { url, ca: authority.certificate, asked, _serving: serving }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(mut stream: TcpStream, tls: TlsAcceptor, addresses: Arc<[String]>, asked: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap().to_owned();
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(target);
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    let Ok(stream) = tls.accept(stream).await else { return };
    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
    for (number, address) in addresses.iter().enumerate() {
        let accept = json!({ "accept": {
            "address": address,
            "id": format!("0f0e0d0c-1111-2222-3333-{number:012}"),
            "connectHeaders": { "Host": RELAY },
            "remoteEndpoint": { "address": "203.0.113.9", "port": 1 },
        }});
        if socket.send(Message::text(accept.to_string())).await.is_err() {
            return;
        }
    }
    while socket.next().await.is_some_and(|message| message.is_ok()) {}
}

async fn listener(proxy: &Proxy, more: &str) -> Listener {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let more = format!("channels: 1\n    {more}\nproxy: {{ url: \"{}\" }}", proxy.url);
    Listener::new(&format!("sb://{RELAY}/e"), &more, &format!("{{ tcp: \"{target}\" }}"), Some(&proxy.ca)).await
}

async fn ended(listener: &Listener, outcome: &str, count: usize) {
    let line = format!("rendezvous_total{{outcome=\"{outcome}\"}} {count}");
    until(&line, || listener.context.metrics.encode().contains(&line)).await;
}

#[tokio::test]
async fn a_hostile_relay_cannot_make_the_proxy_dial_for_it() {
    let proxy = Proxy::new(&[
        "wss://10.0.0.1/$hc/e",
        "wss://169.254.169.254/$hc/e",
        "wss://[fd00::1]/$hc/e",
        "wss://127.0.0.1/$hc/e",
        "wss://kubernetes.default.svc/$hc/e",
        "wss://other.invalid/$hc/e",
        "wss://evilfactory.invalid/$hc/e",
        "wss://relay.factory.invalid:22/$hc/e",
        "ws://relay.factory.invalid/$hc/e",
        "wss://relay.factory.invalid/$hc/other",
        "wss://relay.factory.invalid/$hc/e\r\nX: y",
        "wss://node-7.factory.invalid/$hc/e?sb-hc-action=accept",
    ])
    .await;
    let listener = listener(&proxy, "").await;
    for (outcome, count) in
        [("refused_host", 7), ("refused_port", 1), ("refused_scheme", 1), ("refused_path", 1), ("refused_malformed", 1)]
    {
        ended(&listener, outcome, count).await;
    }
    // The node beside the relay is dialled, to tell its sender that the target is down.
    ended(&listener, "target_down", 1).await;
    assert_eq!(proxy.asked(), [format!("{RELAY}:443"), "node-7.factory.invalid:443".to_owned()]);
}

#[tokio::test]
async fn past_the_proxy_only_public_addresses_are_dialled() {
    let proxy = Proxy::new(&["wss://localhost/$hc/e"]).await;
    // Even where its owner allows the name: loopback is never proxied, and nobody knows that the relay is there.
    let listener = listener(&proxy, "rendezvous_hosts: [localhost]").await;
    ended(&listener, "refused_address", 1).await;
    assert_eq!(proxy.asked(), [format!("{RELAY}:443")]);
}
