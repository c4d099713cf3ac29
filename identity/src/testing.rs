//! A small HTTP server on loopback that answers as a test says: for the faults of token and key endpoints.
use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// What a test sees of a request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) host: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    /// The only value of a field; nothing when it is absent or doubled.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
        values.next().filter(|_| values.next().is_none()).map(|(_, value)| value.as_str())
    }

    /// The query as pairs.
    pub(crate) fn query(&self) -> Vec<(String, String)> {
        let query = self.path.split_once('?').map_or("", |(_, query)| query);
        url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()
    }

    /// The body as a form.
    pub(crate) fn form(&self) -> Vec<(String, String)> {
        url::form_urlencoded::parse(self.body.as_bytes()).into_owned().collect()
    }
}

/// What the server does with it.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    status: u16,
    headers: String,
    body: Option<String>,
    /// Bytes that are announced, and not sent.
    missing: usize,
    hang: bool,
}

impl Reply {
    pub(crate) fn json(body: String) -> Self {
        Self { body: Some(body), ..Self::status(200).header("content-type", "application/json") }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self { status, headers: String::new(), body: Some(String::new()), missing: 0, hang: false }
    }

    /// What a captive proxy answers to everything.
    pub(crate) fn page(status: u16) -> Self {
        let body = Some("<html><body>Sign in to the network, hunter2</body></html>".to_owned());
        Self { body, ..Self::status(status).header("content-type", "text/html; charset=utf-8") }
    }

    /// Hangs up before the end of the body.
    pub(crate) fn broken_off(mut self) -> Self {
        self.missing = 10;
        self
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
        Self::start_with(None, answer).await
    }

    /// The same over TLS; handshakes that fail end their connection.
    pub(crate) async fn start_tls(
        tls: rustls::ServerConfig,
        answer: impl Fn(Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(Some(TlsAcceptor::from(Arc::new(tls))), answer).await
    }

    async fn start_with(tls: Option<TlsAcceptor>, answer: impl Fn(Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(answer);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (answer, tls) = (answer.clone(), tls.clone());
                connections.spawn(async move {
                    let _peer_gone = match tls {
                        None => serve(stream, &*answer).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serve(stream, &*answer).await,
                            Err(error) => Err(error),
                        },
                    };
                });
            }
        });
        Self { address, _tasks: tasks }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &(dyn Fn(Request) -> Reply + Send + Sync),
) -> std::io::Result<()> {
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
        let length = body.len() + reply.missing;
        let text = format!("HTTP/1.1 {} X\r\n{}content-length: {length}\r\n\r\n{body}", reply.status, reply.headers);
        stream.write_all(text.as_bytes()).await?;
        stream.flush().await?;
        if reply.missing > 0 {
            return Ok(());
        }
    }
}

fn parse(bytes: &[u8]) -> Option<(Request, usize)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, rest) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let field = |wanted: &str| {
        headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.clone())
    };
    let length: usize = field("content-length").map_or(0, |value| value.parse().unwrap());
    let body = rest.get(..length)?.to_owned();
    let request = Request {
        method: first.next()?.to_owned(),
        path: first.next()?.to_owned(),
        host: field("host").unwrap_or_default(),
        headers,
        body,
    };
    Some((request, head.len() + 4 + length))
}
