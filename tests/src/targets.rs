//! TCP services that stand in the cluster, in the test's own process.
use std::net::SocketAddr;

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};

use crate::pattern::{self, Pattern};

/// A service on loopback; it and its connections end when this is dropped.
#[derive(Debug)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    tasks: JoinSet<()>,
}

impl Target {
    /// Sends back what comes, half-close included.
    pub async fn echo() -> Self {
        Self::serve(|mut stream| async move {
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await?;
            write.shutdown().await
        })
        .await
    }

    /// Takes or gives checksummed bytes: a request is one byte (`U` or `D`) and a length of 8 bytes, big-endian. After
    /// `U` that many bytes follow, and the answer is their SHA-256; after `D` the answer is a [`Pattern`] of that length.
    pub async fn checksum() -> Self {
        Self::serve(|mut stream| async move {
            while let Ok(direction) = stream.read_u8().await {
                let length = stream.read_u64().await?;
                if direction == b'U' {
                    let digest = pattern::receive(&mut stream, length).await?;
                    stream.write_all(digest.as_ref()).await?;
                } else {
                    Pattern::new(length).send(&mut stream).await?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Accepts connections and never answers, never reads.
    pub async fn silent() -> Self {
        Self::serve(|stream| async move {
            let _held = stream;
            std::future::pending().await
        })
        .await
    }

    async fn serve<F, Fut>(connection: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound socket has an address");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let connection = connection(stream);
                // A connection that the other side breaks is the test's affair, not the target's.
                connections.spawn(async move { drop(connection.await) });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, tasks }
    }

    /// Stops listening and drops every connection.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

/// An HTTP service that answers any request with a stream of events, each sent when the test says so.
#[derive(Debug)]
pub struct Events {
    /// Where it listens.
    pub address: SocketAddr,
    events: mpsc::UnboundedSender<String>,
    _task: JoinSet<()>,
}

impl Events {
    /// Serves one request.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (events, mut wanted) = mpsc::unbounded_channel::<String>();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let Ok((stream, _)) = listener.accept().await else { return };
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            // To the empty line behind the request's head; the client that leaves is the test's affair.
            while stream.read_line(&mut line).await.is_ok_and(|length| length > 2) {
                line.clear();
            }
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            let mut sent = stream.write_all(head.as_bytes()).await;
            while let (Ok(()), Some(event)) = (&sent, wanted.recv().await) {
                sent = stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await;
            }
            drop(stream.write_all(b"0\r\n\r\n").await);
        });
        Self { address, events, _task: task }
    }

    /// Sends one event.
    ///
    /// # Panics
    /// When the client has gone.
    pub fn send(&self, data: &str) {
        self.events.send(format!("data: {data}\n\n")).expect("the service is there");
    }
}

/// A service that says something, ends its own direction, and then hears the other side out.
#[derive(Debug)]
pub struct Greeting {
    /// Where it listens.
    pub address: SocketAddr,
    heard: mpsc::UnboundedReceiver<usize>,
    _target: Target,
}

impl Greeting {
    /// Starts it.
    pub async fn start(words: &'static [u8]) -> Self {
        let (told, heard) = mpsc::unbounded_channel();
        let target = Target::serve(move |mut stream| {
            let told = told.clone();
            async move {
                stream.write_all(words).await?;
                stream.shutdown().await?;
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await?;
                // A test that has ended asks no more.
                let _ = told.send(all.len());
                Ok(())
            }
        })
        .await;
        Self { address: target.address, heard, _target: target }
    }

    /// How many bytes the next client had said when it ended.
    ///
    /// # Panics
    /// When the service has ended.
    pub async fn heard(&mut self) -> usize {
        self.heard.recv().await.expect("the service is there")
    }
}

/// An address on which nobody listens, and nobody will: the port is bound, but not listening.
#[derive(Debug)]
pub struct Refusing {
    /// Connections to it are refused.
    pub address: SocketAddr,
    _socket: tokio::net::TcpSocket,
}

impl Refusing {
    /// Takes a port and leaves it closed.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub fn new() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("sockets can be made");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("loopback has free ports");
        Self { address: socket.local_addr().expect("a bound socket has an address"), _socket: socket }
    }
}

impl Default for Refusing {
    fn default() -> Self {
        Self::new()
    }
}
