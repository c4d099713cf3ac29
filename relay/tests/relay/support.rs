//! A relay in this process, and the peers that the tests play themselves: tungstenite for WebSockets, raw text where the
//! reason phrase or a broken byte matters.
use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use daemon::{clock::Manual, config::load, process::Context};
use futures_util::{SinkExt as _, StreamExt as _};
use identity::{sas, secret::Secret};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message, client::IntoClientRequest, protocol::CloseFrame},
};

/// Nothing here takes longer, unless it hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) const LISTEN_KEY: &str = "bGlzdGVuLWtleS1vZi1hdC1sZWFzdC0xMjgtYml0cw==";
pub(crate) const SEND_KEY: &str = "c2VuZC1rZXktb2YtYXQtbGVhc3QtMTI4LWJpdHMtLS0=";
pub(crate) const SECOND_KEY: &str = "c2Vjb25kLWtleS1vZi1hdC1sZWFzdC0xMjgtYml0cy0=";
pub(crate) const NAMESPACE_KEY: &str = "bmFtZXNwYWNlLWtleS1vZi1hdC1sZWFzdC0xMjgtYml0";

pub(crate) type Socket = WebSocketStream<TcpStream>;

/// A running relay with its keys.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    pub(crate) context: Context,
    pub(crate) clock: Arc<Manual>,
    pub(crate) folder: TempDir,
}

/// Two entities, `e` and `other`, each with a rule per right, and a namespace rule `all` that may both.
pub(crate) fn config(listen: &str, limits: &str) -> String {
    let rules = "listen: { rights: [listen], keys: [{ file: listen.key }] }
      send: { rights: [send], keys: [{ file: send.key }, { file: second.key }] }";
    format!(
        "listen: [{listen}]
namespace: 127.0.0.1
rules:
  all: {{ rights: [listen, send], keys: [{{ file: namespace.key }}] }}
entities:
  e:
    rules:
      {rules}
    limits: {{ listeners: 3, senders: 100 }}
  other:
    rules:
      listen: {{ rights: [listen], keys: [{{ file: second.key }}] }}
      send: {{ rights: [send], keys: [{{ file: second.key }}] }}
  Deep/Name:
    rules:
      {rules}
  open:
    anonymous_senders: true
    rules:
      {rules}
limits: {{ {limits} }}
"
    )
}

/// A file that only we can read.
pub(crate) fn write_secret(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

impl Relay {
    /// Plain, on loopback, with generous limits.
    pub(crate) async fn new() -> Self {
        Self::with(&config("{ address: 127.0.0.1:0 }", "handshakes_per_address: 200")).await
    }

    /// With this file.
    pub(crate) async fn with(text: &str) -> Self {
        Self::again(Self::folder(), text).await
    }

    /// A folder with the keys that [`config`] names.
    pub(crate) fn folder() -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (file, key) in [
            ("listen.key", LISTEN_KEY),
            ("send.key", SEND_KEY),
            ("second.key", SECOND_KEY),
            ("namespace.key", NAMESPACE_KEY),
        ] {
            write_secret(&folder.path().join(file), key);
        }
        folder
    }

    /// With this file in a folder that is there.
    pub(crate) async fn again(folder: TempDir, text: &str) -> Self {
        let file = folder.path().join("relay.yaml");
        std::fs::write(&file, text).unwrap();
        let clock = Arc::new(Manual::new(SystemTime::now()));
        let context = Context { clock: clock.clone(), ..Context::new("causeway_relay") };
        let config = load(&file, &[]).unwrap();
        let running = relay::serve::start(config, context.clone()).await.unwrap();
        Self { address: running.addresses[0], context, clock, folder }
    }

    /// Ends at once, and gives the folder back for another.
    pub(crate) async fn stop(self) -> TempDir {
        self.context.shutdown.force();
        self.context.shutdown.run(Duration::ZERO).await;
        self.folder
    }

    /// What `/statusz` says about the configuration.
    pub(crate) fn configuration(&self) -> Value {
        (self.context.status.status())()["relay"]["configuration"].take()
    }

    /// Writes a file beside relay.yaml at once, as a careful editor does.
    pub(crate) fn put(&self, file: &str, text: &str) {
        let path = self.folder.path().join(file);
        let fresh = path.with_file_name(".fresh");
        write_secret(&fresh, text);
        std::fs::rename(fresh, path).unwrap();
    }

    /// Changes files, and waits until the change is in force.
    pub(crate) async fn reload(&self, change: impl FnOnce()) {
        let before = self.configuration()["generation"].as_u64();
        change();
        until("the change is in force", || self.configuration()["generation"].as_u64() > before).await;
        assert_eq!(self.configuration()["refused"], Value::Null);
    }

    /// Changes files, and waits until the change is refused; gives why.
    pub(crate) async fn refuse(&self, change: impl FnOnce()) -> String {
        let before = self.configuration();
        change();
        until("the change is refused", || self.configuration()["refusals"].as_u64() > before["refusals"].as_u64())
            .await;
        let now = self.configuration();
        assert_eq!(now["generation"], before["generation"]);
        now["refused"].as_str().unwrap().to_owned()
    }

    pub(crate) fn token(&self, rule: &str, key: &str, path: &str) -> String {
        self.token_until(rule, key, path, daemon::clock::Clock::now(&*self.clock) + Duration::from_secs(600))
    }

    pub(crate) fn token_until(&self, rule: &str, key: &str, path: &str, expires: SystemTime) -> String {
        sas::mint(&format!("http://127.0.0.1/{path}"), rule, &Secret::new(key), expires).expose().to_owned()
    }

    pub(crate) fn listen_token(&self) -> String {
        self.token("listen", LISTEN_KEY, "e")
    }

    pub(crate) fn send_token(&self) -> String {
        self.token("send", SEND_KEY, "e")
    }

    /// A WebSocket handshake by tungstenite.
    pub(crate) async fn dial(&self, target: &str, headers: &[(&str, &str)]) -> Result<Socket, Box<tungstenite::Error>> {
        dial(self.address, target, headers).await
    }

    /// A foreign listener on `e`.
    pub(crate) async fn listener(&self) -> Control {
        self.listener_as("listener-1").await
    }

    /// A foreign listener on `e` with this id.
    pub(crate) async fn listener_as(&self, id: &str) -> Control {
        let token = self.listen_token();
        let target = format!("/$hc/e?sb-hc-action=listen&sb-hc-id={id}");
        Control(self.dial(&target, &[("ServiceBusAuthorization", &token)]).await.unwrap())
    }

    /// What `/statusz` shows of the listeners on `e`.
    pub(crate) fn shown_listener(&self, id: &str) -> Value {
        let status = self.context.status.status()();
        let listeners = status["relay"]["entities"]["e"]["listeners"].as_array().unwrap().clone();
        listeners.into_iter().find(|listener| listener["id"] == id).unwrap_or_default()
    }

    /// The events of one kind, oldest first.
    pub(crate) fn events(&self, kind: &str) -> Vec<serde_json::Map<String, Value>> {
        let events = self.context.events.recent();
        events.iter().filter(|event| event.kind == kind).map(|event| event.fields.clone()).collect()
    }

    /// A foreign sender on `e`, not yet answered.
    pub(crate) fn sender(&self, suffix: &str) -> impl Future<Output = Result<Socket, Box<tungstenite::Error>>> + use<> {
        let (address, token) = (self.address, self.send_token());
        let target = format!("/$hc/e{suffix}");
        async move { dial(address, &target, &[("ServiceBusAuthorization", &token)]).await }
    }

    /// A sender on `e` joined with a listener.
    pub(crate) async fn pair(&self) -> (Socket, Socket, Control) {
        let mut control = self.listener().await;
        let (sender, accepted) = tokio::join!(self.sender("?sb-hc-action=connect"), async {
            let address = control.address().await;
            dial_address(&address, &[]).await.unwrap()
        });
        (sender.unwrap(), accepted, control)
    }

    /// A handshake in raw text; gives the answer's status line, its head, and the connection.
    pub(crate) async fn raw(&self, target: &str, headers: &[(&str, &str)]) -> Answer {
        self.send_raw(head(target, headers).as_bytes()).await
    }

    /// The same, and `Host` is only what `headers` say.
    pub(crate) async fn raw_without_host(&self, target: &str, headers: &[(&str, &str)]) -> Answer {
        let head = head(target, headers).replacen("Host: 127.0.0.1\r\n", "", 1);
        self.send_raw(head.as_bytes()).await
    }

    /// A sender on `e` in raw text.
    pub(crate) async fn raw_sender(&self) -> Answer {
        let token = self.send_token();
        self.raw("/$hc/e", &[("ServiceBusAuthorization", &token)]).await
    }

    /// Any bytes; gives what comes back.
    pub(crate) async fn send_raw(&self, bytes: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // The relay may answer and close while we are still sending.
        let _ = stream.write_all(bytes).await;
        Answer::read(stream).await
    }
}

/// The head of an upgrade.
fn head(target: &str, headers: &[(&str, &str)]) -> String {
    let mut head = format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n");
    let upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
    ];
    let own = upgrade.iter().filter(|(name, _)| headers.iter().all(|(other, _)| other != name));
    for (name, value) in own.chain(headers) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head + "\r\n"
}

/// What came back to a raw request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) reason: String,
    pub(crate) head: String,
    pub(crate) stream: TcpStream,
}

impl Answer {
    /// Reads a response head.
    pub(crate) async fn read(mut stream: TcpStream) -> Self {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte).await, Ok(1)) {
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut line = head.lines().next().unwrap_or_default().splitn(3, ' ').skip(1);
        let status = line.next().and_then(|status| status.parse().ok()).unwrap_or_default();
        let reason = line.next().unwrap_or_default().to_owned();
        Self { status, reason, head, stream }
    }

    /// Reads to the end, however it comes.
    pub(crate) async fn rest(mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest).await;
        rest
    }
}

pub(crate) async fn dial(
    address: SocketAddr,
    target: &str,
    headers: &[(&str, &str)],
) -> Result<Socket, Box<tungstenite::Error>> {
    dial_address(&format!("ws://{address}{target}"), headers).await
}

pub(crate) async fn dial_address(url: &str, headers: &[(&str, &str)]) -> Result<Socket, Box<tungstenite::Error>> {
    let mut request = url.into_client_request()?;
    for (name, value) in headers {
        let name = tungstenite::http::HeaderName::try_from(*name).unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let uri = request.uri();
    let address = format!("{}:{}", uri.host().unwrap(), uri.port_u16().unwrap());
    let stream = TcpStream::connect(address).await.unwrap();
    Ok(client_async(request, stream).await?.0)
}

/// The target of an absolute address.
pub(crate) fn target(address: &str) -> &str {
    &address[address.find("/$hc/").unwrap()..]
}

/// The status of a refused handshake.
pub(crate) fn refused(result: Result<Socket, Box<tungstenite::Error>>) -> u16 {
    match result.map_err(|error| *error) {
        Err(tungstenite::Error::Http(response)) => response.status().as_u16(),
        other => panic!("not refused: {other:?}"),
    }
}

/// The control channel of a foreign listener.
#[derive(Debug)]
pub(crate) struct Control(pub(crate) Socket);

impl Control {
    /// The next `accept` message.
    pub(crate) async fn accept(&mut self) -> Value {
        loop {
            match self.0.next().await.expect("the channel is open").expect("the channel is sound") {
                Message::Text(text) => {
                    let message: Value = serde_json::from_str(&text).unwrap();
                    return message["accept"].clone();
                }
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("not an accept: {other:?}"),
            }
        }
    }

    /// Where the next sender waits.
    pub(crate) async fn address(&mut self) -> String {
        self.accept().await["address"].as_str().unwrap().to_owned()
    }

    /// Sends a `renewToken`.
    pub(crate) async fn renew(&mut self, token: &str) {
        self.send_text(&serde_json::json!({ "renewToken": { "token": token } }).to_string()).await;
    }

    /// A sender on `e` gets through to it.
    pub(crate) async fn is_alive(&mut self, relay: &Relay) {
        let (sender, accepted) = tokio::join!(relay.sender(""), async {
            let address = self.address().await;
            dial_address(&address, &[]).await
        });
        sender.unwrap();
        accepted.unwrap();
    }

    pub(crate) async fn send_text(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    /// The Close that ends this channel.
    pub(crate) async fn close(&mut self) -> Option<CloseFrame> {
        closed(&mut self.0).await
    }
}

/// Reads until the peer's Close.
pub(crate) async fn closed(socket: &mut Socket) -> Option<CloseFrame> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Close(frame))) => return frame,
            Some(Ok(_)) => {}
            other => panic!("no close: {other:?}"),
        }
    }
}

/// Waits for a condition, looking now and then; panics with `what` when it does not come.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(LIMIT, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "never came: {what}");
}

/// The same for a condition that has to ask.
pub(crate) async fn until_async(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(LIMIT, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "never came: {what}");
}
