//! A relay played by the test: it says what the test wants, true or not, and records who connects.
use std::{net::SocketAddr, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use proto::ws::message::Part;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Callback, ErrorResponse, Request, Response},
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use crate::support::LIMIT;

pub(crate) type Socket = WebSocketStream<TcpStream>;

/// The relay.
pub(crate) struct Script {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
    features: Option<&'static str>,
}

/// What a listener dialled with.
#[derive(Debug, Default)]
pub(crate) struct Dialled {
    pub(crate) target: String,
    pub(crate) token: Option<String>,
}

struct Shake<'a> {
    dialled: &'a mut Dialled,
    features: Option<&'static str>,
}

impl Callback for Shake<'_> {
    fn on_request(self, request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
        self.dialled.target = request.uri().to_string();
        let token = request.headers().get("ServiceBusAuthorization");
        self.dialled.token = token.map(|token| token.to_str().unwrap().to_owned());
        if let Some(features) = self.features {
            response.headers_mut().insert("Causeway-Features", features.parse().unwrap());
        }
        Ok(response)
    }
}

impl Script {
    /// As Azure's: without any feature of ours.
    pub(crate) async fn new() -> Self {
        Self::with(None).await
    }

    /// With these features.
    pub(crate) async fn with(features: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address, features }
    }

    /// URL of the hybrid connection `e`.
    pub(crate) fn url(&self) -> String {
        format!("ws://{}/e", self.address)
    }

    /// The next connection, whatever it wants.
    pub(crate) async fn tcp(&self) -> TcpStream {
        tokio::time::timeout(LIMIT, self.listener.accept()).await.expect("somebody dials").unwrap().0
    }

    /// The next WebSocket, and what it asked for.
    pub(crate) async fn accept(&self) -> (Dialled, Socket) {
        let stream = self.tcp().await;
        let mut dialled = Dialled::default();
        let shake = Shake { dialled: &mut dialled, features: self.features };
        let socket = accept_hdr_async(stream, shake).await.unwrap();
        (dialled, socket)
    }

    /// The next WebSocket, which must be a control channel.
    pub(crate) async fn control(&self) -> Socket {
        let (dialled, socket) = self.accept().await;
        assert!(dialled.target.contains("sb-hc-action=listen"), "{}", dialled.target);
        socket
    }

    /// The next WebSocket, which must be the rendezvous that was named `name`.
    pub(crate) async fn rendezvous(&self, name: &str) -> Socket {
        let (dialled, socket) = self.accept().await;
        assert_eq!(dialled.target, rendezvous_target(name));
        socket
    }

    /// Address of a rendezvous named `name`.
    pub(crate) fn rendezvous_address(&self, name: &str) -> String {
        format!("ws://{}{}", self.address, rendezvous_target(name))
    }

    /// A whole request; `change` makes it what the test wants.
    pub(crate) fn request(&self, id: &str, change: Value) -> Value {
        let mut request = json!({
            "address": self.rendezvous_address(id),
            "id": id,
            "requestTarget": "/e/path?q=1",
            "method": "GET",
            "remoteEndpoint": { "address": "203.0.113.9", "port": 4711 },
            "requestHeaders": { "Host": "ns.example.com", "Via": "1.1 ns.example.com" },
            "body": false,
        });
        for (key, value) in change.as_object().unwrap() {
            request[key] = value.clone();
        }
        json!({ "request": request })
    }
}

fn rendezvous_target(name: &str) -> String {
    format!("/$hc/e?sb-hc-action=request&sb-hc-id={name}")
}

/// Says one text message.
pub(crate) async fn say(socket: &mut Socket, message: &Value) {
    socket.send(Message::text(message.to_string())).await.unwrap();
}

/// The next message that is no ping.
pub(crate) async fn next(socket: &mut Socket) -> Message {
    loop {
        let message = tokio::time::timeout(LIMIT, socket.next()).await.expect("something comes");
        match message.expect("the socket is open").expect("the socket is sound") {
            Message::Ping(_) | Message::Pong(_) => {}
            message => return message,
        }
    }
}

/// The next message, which must be a command named `name`.
pub(crate) async fn command(socket: &mut Socket, name: &str) -> Value {
    match next(socket).await {
        Message::Text(text) => {
            let message: Value = serde_json::from_str(&text).unwrap();
            assert!(message[name].is_object(), "no {name}: {message}");
            message[name].clone()
        }
        other => panic!("no {name}: {other:?}"),
    }
}

/// The next message, which must be a body.
pub(crate) async fn body(socket: &mut Socket) -> Vec<u8> {
    match next(socket).await {
        Message::Binary(bytes) => bytes.to_vec(),
        other => panic!("no body: {other:?}"),
    }
}

/// A response with its body as text.
pub(crate) async fn response(socket: &mut Socket) -> (Value, String) {
    let response = command(socket, "response").await;
    let body = match response["body"].as_bool() {
        Some(true) => body(socket).await,
        _ => Vec::new(),
    };
    (response, String::from_utf8(body).unwrap())
}

/// Closes with a code.
pub(crate) async fn close(socket: &mut Socket, code: u16) {
    let frame = CloseFrame { code: CloseCode::from(code), reason: "said the test".into() };
    socket.close(Some(frame)).await.unwrap();
}

/// Reads a socket frame by frame, as tungstenite does not. Nothing may have been read from it yet.
pub(crate) struct Frames {
    receiver: proto::ws::message::Receiver<TcpStream>,
    sender: proto::ws::message::Sender,
    writer: tokio::task::JoinHandle<()>,
}

impl Frames {
    pub(crate) fn of(socket: Socket) -> Self {
        let (sender, receiver, writer) = proto::ws::message::split(
            socket.into_inner(),
            proto::ws::Role::Server,
            bytes::BytesMut::new(),
            1 << 20,
            Duration::from_secs(25),
        );
        let writer = tokio_util::task::TaskTracker::new().spawn(writer);
        Self { receiver, sender, writer }
    }

    /// The next frame, or text, or Close; how it broke where it did.
    pub(crate) async fn next(&mut self) -> Result<Part, String> {
        let part = tokio::time::timeout(LIMIT, self.receiver.next_part()).await.expect("something comes");
        part.map_err(|error| error.to_string())
    }

    pub(crate) async fn text(&mut self) -> Value {
        match self.next().await.unwrap() {
            Part::Whole(proto::ws::message::Message::Text(text)) => serde_json::from_str(&text).unwrap(),
            other => panic!("no text: {other:?}"),
        }
    }

    /// Bytes of the body, until it is `expected`; more is wrong.
    pub(crate) async fn bytes(&mut self, expected: &[u8]) {
        let mut came = Vec::new();
        while came.len() < expected.len() {
            match self.next().await.unwrap() {
                Part::Bytes { bytes, .. } => came.extend_from_slice(&bytes),
                other => panic!("no body: {other:?}"),
            }
        }
        assert!(came == expected, "{came:?}");
    }

    pub(crate) async fn send_text(&self, message: &Value) {
        let text = proto::ws::message::Message::Text(message.to_string());
        self.sender.send(vec![text]).await.unwrap();
    }

    pub(crate) async fn send_piece(&self, bytes: &'static [u8], first: bool, last: bool) {
        let piece = proto::ws::message::Piece { bytes: bytes::Bytes::from_static(bytes), first, last };
        self.sender.send_piece(piece).await.unwrap();
    }

    pub(crate) async fn close(&self, code: u16) {
        let close = proto::ws::message::Message::Close(Some((code, "said the test".to_owned())));
        self.sender.send(vec![close]).await.unwrap();
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.writer.abort();
    }
}
