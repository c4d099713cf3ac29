//! HTTP senders as raw bytes, and listeners that answer them.
use bytes::{Buf as _, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Control, LIMIT, LISTEN_KEY, Relay, Socket, config};

/// A relay whose entity `e` takes both kinds, with these HTTP settings.
pub(super) async fn relay_with(http: &str, limits: &str) -> Relay {
    let text = config("{ address: 127.0.0.1:0 }", &format!("handshakes_per_address: 200, {limits}"));
    let own = format!("  e:\n    kind: both\n    http: {{ {http} }}\n");
    Relay::with(&text.replace("  e:\n", &own).replace("  open:\n", "  open:\n    kind: http\n")).await
}

/// The same with everything at its default.
pub(super) async fn relay() -> Relay {
    relay_with("", "").await
}

/// An answer to an HTTP sender.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) reason: String,
    pub(super) version: String,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// The body ended as its framing says.
    pub(super) whole: bool,
}

impl Reply {
    /// All values of a field, in order.
    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        let same = self.fields.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        same.map(|(_, value)| value.as_str()).collect()
    }

    /// The only value of a field.
    pub(super) fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} is there twice: {:?}", self.fields);
        all.first().copied()
    }
}

/// One connection of an HTTP sender.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) stream: TcpStream,
    token: String,
    read: BytesMut,
}

impl Client {
    pub(super) async fn new(relay: &Relay) -> Self {
        let stream = TcpStream::connect(relay.address).await.unwrap();
        Self { stream, token: relay.send_token(), read: BytesMut::new() }
    }

    /// Any bytes. The relay may answer and close while they are on their way.
    pub(super) async fn raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// A head with a token; `fields` are whole lines.
    pub(super) async fn head(&mut self, line: &str, fields: &[&str]) {
        let mut head = format!("{line} HTTP/1.1\r\nHost: relay.test\r\nServiceBusAuthorization: {}\r\n", self.token);
        fields.iter().for_each(|field| head.push_str(&format!("{field}\r\n")));
        head.push_str("\r\n");
        self.raw(head.as_bytes()).await;
    }

    /// A request whose length is known.
    pub(super) async fn with_body(&mut self, line: &str, fields: &[&str], body: &[u8]) {
        let length = format!("Content-Length: {}", body.len());
        self.head(line, &[fields, &[&length]].concat()).await;
        self.raw(body).await;
    }

    /// One chunk of a body without a known length; an empty one ends it.
    pub(super) async fn chunk(&mut self, bytes: &[u8]) {
        let chunk = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
        self.raw(&chunk).await;
    }

    /// The next head.
    pub(super) async fn reply_head(&mut self) -> Reply {
        let end = loop {
            if let Some(end) = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end;
            }
            let read = timeout(LIMIT, self.stream.read_buf(&mut self.read)).await.expect("an answer comes");
            assert_ne!(read.unwrap_or(0), 0, "the connection ended without an answer");
        };
        let head = String::from_utf8_lossy(&self.read.split_to(end + 4)[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let mut first = lines.next().unwrap().splitn(3, ' ');
        let version = first.next().unwrap().to_owned();
        let status = first.next().unwrap().parse().unwrap();
        let reason = first.next().unwrap_or_default().to_owned();
        let field = |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
        let fields = lines.map(|line| field(line).expect("a field")).collect();
        Reply { status, reason, version, fields, body: Vec::new(), whole: true }
    }

    /// The next answer with its body. `bodyless` for what HTTP gives none.
    pub(super) async fn reply_to(&mut self, bodyless: bool) -> Reply {
        let mut reply = self.reply_head().await;
        if bodyless || matches!(reply.status, 204 | 304) || reply.status < 200 {
            return reply;
        }
        if reply.one("Transfer-Encoding") == Some("chunked") {
            loop {
                match self.next_chunk().await {
                    Some(chunk) if chunk.is_empty() => return reply,
                    Some(chunk) => reply.body.extend(chunk),
                    None => {
                        reply.whole = false;
                        return reply;
                    }
                }
            }
        }
        let length = reply.one("Content-Length").map(|length| length.parse().unwrap());
        while length.is_none_or(|length: usize| self.read.len() < length) {
            match self.stream.read_buf(&mut self.read).await {
                Ok(1..) => {}
                Ok(0) if length.is_none() => break,
                _ => {
                    reply.whole = false;
                    break;
                }
            }
        }
        let length = length.unwrap_or(usize::MAX).min(self.read.len());
        reply.body = self.read.split_to(length).to_vec();
        reply
    }

    pub(super) async fn reply(&mut self) -> Reply {
        self.reply_to(false).await
    }

    /// The next chunk of the current answer; none when the connection ends before.
    pub(super) async fn next_chunk(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.read.windows(2).position(|bytes| bytes == b"\r\n") {
                let length = usize::from_str_radix(std::str::from_utf8(&self.read[..end]).unwrap(), 16).unwrap();
                if self.read.len() >= end + 2 + length + 2 {
                    self.read.advance(end + 2);
                    let chunk = self.read.split_to(length).to_vec();
                    self.read.advance(2);
                    return Some(chunk);
                }
            }
            if !matches!(self.stream.read_buf(&mut self.read).await, Ok(1..)) {
                return None;
            }
        }
    }

    /// A request with a body of known length, or none, and its answer.
    pub(super) async fn ask(&mut self, line: &str, fields: &[&str]) -> Reply {
        self.head(line, fields).await;
        self.reply_to(line.starts_with("HEAD ")).await
    }

    /// Whether the relay has closed the connection; waits until it has.
    pub(super) async fn is_closed(&mut self) -> bool {
        assert!(self.read.is_empty(), "there is more: {:?}", self.read);
        !matches!(self.stream.read_buf(&mut self.read).await, Ok(1..))
    }
}

/// A request as a listener got it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) message: Value,
    pub(super) body: Option<Vec<u8>>,
}

impl Asked {
    pub(super) fn id(&self) -> &str {
        self.message["id"].as_str().unwrap()
    }

    pub(super) fn address(&self) -> &str {
        self.message["address"].as_str().unwrap()
    }

    pub(super) fn field(&self, name: &str) -> &Value {
        &self.message["requestHeaders"][name]
    }
}

/// The next request on a control channel or a rendezvous, with its body.
pub(super) async fn request(socket: &mut Socket) -> Asked {
    let text = loop {
        let message = timeout(LIMIT, socket.next()).await.expect("a request comes");
        match message.expect("the socket is open").expect("the socket is sound") {
            Message::Text(text) => break text,
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("not a request: {other:?}"),
        }
    };
    assert!(text.len() < 65_536, "too large for the SDKs: {}", text.len());
    let mut message: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(message.as_object().unwrap().len(), 1, "one command: {message}");
    let message = message["request"].take();
    let body = match message["body"].as_bool() {
        // Adjacent: nothing but control frames may come between.
        Some(true) => match socket.next().await.unwrap().unwrap() {
            Message::Binary(body) => Some(body.to_vec()),
            other => panic!("not the body: {other:?}"),
        },
        _ => None,
    };
    Asked { message, body }
}

/// Answers on a control channel or a rendezvous.
pub(super) async fn respond(socket: &mut Socket, response: Value, body: Option<&[u8]>) {
    socket.send(Message::text(json!({ "response": response }).to_string())).await.unwrap();
    if let Some(body) = body {
        socket.send(Message::binary(body.to_vec())).await.unwrap();
    }
}

/// Takes the next request and answers it with 200 and this body.
pub(super) async fn serve_one(socket: &mut Socket, body: &[u8]) -> Asked {
    let asked = request(socket).await;
    respond(socket, json!({ "requestId": asked.id(), "statusCode": 200, "body": true }), Some(body)).await;
    asked
}

/// A listener on another entity than `e`.
pub(super) async fn listener_on(relay: &Relay, entity: &str) -> Control {
    let token = relay.token("listen", LISTEN_KEY, entity);
    let target = format!("/$hc/{entity}?sb-hc-action=listen");
    Control(relay.dial(&target, &[("ServiceBusAuthorization", &token)]).await.unwrap())
}
