//! A small HTTP server on loopback that answers as a test says: for the faults of token and key endpoints.
use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// What a test sees of a request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) host: String,
    pub(crate) body: String,
}

/// What the server does with it.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    status: u16,
    headers: String,
    body: Option<String>,
    hang: bool,
}

impl Reply {
    pub(crate) fn json(body: String) -> Self {
        Self { status: 200, headers: "content-type: application/json\r\n".to_owned(), body: Some(body), hang: false }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self { status, headers: String::new(), body: Some(String::new()), hang: false }
    }

    pub(crate) fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    /// Closes without a word.
    pub(crate) fn hang_up() -> Self {
        Self { body: None, ..Self::status(0) }
    }

    /// Never answers.
    pub(crate) fn silence() -> Self {
        Self { hang: true, ..Self::status(0) }
    }
}

/// The server; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct HttpServer {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl HttpServer {
    pub(crate) async fn start(answer: impl Fn(Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(answer);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let answer = answer.clone();
                connections.spawn(async move {
                    let _peer_gone = serve(stream, &*answer).await;
                });
            }
        });
        Self { address, _tasks: tasks }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

async fn serve(mut stream: TcpStream, answer: &(dyn Fn(Request) -> Reply + Send + Sync)) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let request = loop {
            if let Some((request, used)) = parse(&bytes) {
                bytes.drain(..used);
                break request;
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        };
        let reply = answer(request);
        if reply.hang {
            std::future::pending::<()>().await;
        }
        let Some(body) = reply.body else { return Ok(()) };
        let length = body.len();
        let text = format!("HTTP/1.1 {} X\r\n{}content-length: {length}\r\n\r\n{body}", reply.status, reply.headers);
        stream.write_all(text.as_bytes()).await?;
    }
}

fn parse(bytes: &[u8]) -> Option<(Request, usize)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, rest) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let field = |wanted: &str| {
        lines.clone().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim().to_owned())
        })
    };
    let length: usize = field("content-length").map_or(0, |value| value.parse().unwrap());
    let body = rest.get(..length)?.to_owned();
    let request = Request {
        method: first.next()?.to_owned(),
        path: first.next()?.to_owned(),
        host: field("host").unwrap_or_default(),
        body,
    };
    Some((request, head.len() + 4 + length))
}
