//! The load: bulk, small requests, connections, echoes. The same code runs against the target itself and against a face,
//! so that their ratio is what the tunnel costs.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Size of one written piece: what a fast program writes at once.
const PIECE: usize = 256 * 1024;

/// A TCP target that is told how many bytes come (8 bytes, big-endian), counts them, and answers with the count. A half-close
/// would be simpler, and not every tunnel carries one.
pub(crate) async fn sink(tasks: &mut JoinSet<()>) -> anyhow::Result<SocketAddr> {
    sink_at("127.0.0.1:0", tasks).await
}

/// The same at an address.
pub(crate) async fn sink_at(at: &str, tasks: &mut JoinSet<()>) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(at).await?;
    let address = listener.local_addr()?;
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut buffer = vec![0u8; PIECE];
                let Ok(announced) = stream.read_u64().await else { return };
                let mut count = 0u64;
                while count < announced {
                    match stream.read(&mut buffer).await {
                        Ok(read @ 1..) => count += read as u64,
                        Ok(_) | Err(_) => return,
                    }
                }
                // The client checks the count; a failed write shows there.
                let _ = stream.write_all(&count.to_be_bytes()).await;
            });
        }
    });
    Ok(address)
}

/// A TCP target that sends back what it gets.
pub(crate) async fn echo(tasks: &mut JoinSet<()>) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            // Without it the kernel would wait for more to send.
            let _ = stream.set_nodelay(true);
            connections.spawn(async move {
                // Taken only when something comes, so that ten thousand idle ones stay small.
                loop {
                    if stream.readable().await.is_err() {
                        return;
                    }
                    let mut buffer = [0; 4096];
                    match stream.try_read(&mut buffer) {
                        Ok(0) => return,
                        Ok(read) => {
                            if stream.write_all(&buffer[..read]).await.is_err() {
                                return;
                            }
                        }
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                        Err(_) => return,
                    }
                }
            });
            while connections.try_join_next().is_some() {}
        }
    });
    Ok(address)
}

/// One connection that says something and waits until it comes back.
pub(crate) struct Echo {
    stream: TcpStream,
    word: Vec<u8>,
}

impl Echo {
    /// Connects and sends a first word of `size` bytes, so that everything between is set up.
    pub(crate) async fn connect(address: SocketAddr, size: usize) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        let mut echo = Self { stream, word: vec![0x5a; size] };
        echo.once().await?;
        Ok(echo)
    }

    /// How long one word takes.
    pub(crate) async fn once(&mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        self.stream.write_all(&self.word).await?;
        self.stream.read_exact(&mut self.word).await.context("the echo ended")?;
        Ok(began.elapsed())
    }
}

/// The `percent`th percentile.
pub(crate) fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

/// Uploads `total` bytes to a [`sink`] behind `address`; the time until the sink has confirmed all of them.
pub(crate) async fn upload(address: SocketAddr, total: u64) -> anyhow::Result<Duration> {
    let mut stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    let piece = vec![0x5au8; PIECE];
    let began = Instant::now();
    stream.write_u64(total).await?;
    let mut left = total;
    while left > 0 {
        let count = usize::try_from(left.min(PIECE as u64))?;
        stream.write_all(&piece[..count]).await?;
        left -= count as u64;
    }
    let mut confirmed = [0u8; 8];
    stream.read_exact(&mut confirmed).await.context("the sink did not confirm")?;
    ensure!(u64::from_be_bytes(confirmed) == total, "the sink counted another number of bytes");
    Ok(began.elapsed())
}

/// What a run of small requests gave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    /// Requests per second.
    pub(crate) per_second: f64,
    /// Median of the single request times.
    pub(crate) p50: Duration,
    /// 99th percentile of the single request times.
    pub(crate) p99: Duration,
}

/// Sends `head` again and again on `connections` kept-alive connections for `time`, each waiting for its whole answer.
pub(crate) async fn requests(
    address: SocketAddr,
    head: Arc<[u8]>,
    connections: usize,
    time: Duration,
) -> anyhow::Result<Rate> {
    let answered = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    let began = Instant::now();
    for _ in 0..connections {
        let (head, answered) = (head.clone(), answered.clone());
        clients.spawn(async move {
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let mut times = Vec::new();
            let mut buffer = Vec::with_capacity(16 * 1024);
            while began.elapsed() < time {
                let sent = Instant::now();
                stream.write_all(&head).await?;
                answer(&mut stream, &mut buffer).await?;
                times.push(sent.elapsed());
                answered.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(client) = clients.join_next().await {
        times.extend(client??);
    }
    let took = began.elapsed();
    times.sort_unstable();
    ensure!(!times.is_empty(), "no request was answered");
    Ok(Rate {
        per_second: answered.load(Ordering::Relaxed) as f64 / took.as_secs_f64(),
        p50: times[times.len() / 2],
        p99: times[times.len() * 99 / 100],
    })
}

/// Sends `head` again and again for `time`, each on a connection of its own, `at_once` side by side.
pub(crate) async fn connections(
    address: SocketAddr,
    head: Arc<[u8]>,
    at_once: usize,
    time: Duration,
) -> anyhow::Result<f64> {
    let mut clients = JoinSet::new();
    let began = Instant::now();
    for _ in 0..at_once {
        let head = head.clone();
        clients.spawn(async move {
            let (mut count, mut buffer) = (0_u64, Vec::with_capacity(4096));
            while began.elapsed() < time {
                let mut stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                stream.write_all(&head).await?;
                answer(&mut stream, &mut buffer).await?;
                count += 1;
            }
            anyhow::Ok(count)
        });
    }
    let mut count = 0;
    while let Some(client) = clients.join_next().await {
        count += client??;
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

/// Reads one answer with `Content-Length`, and fails on any status but 200.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> anyhow::Result<()> {
    buffer.clear();
    let (body, length) = loop {
        ensure!(stream.read_buf(buffer).await? > 0, "the connection ended before the answer");
        let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&buffer[..end])?;
        ensure!(head.starts_with("HTTP/1.1 200"), "answered {}", head.lines().next().unwrap_or_default());
        let length = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .context("the answer has no Content-Length")?
            .1
            .trim()
            .parse::<usize>()?;
        break (end + 4, length);
    };
    while buffer.len() < body + length {
        ensure!(stream.read_buf(buffer).await? > 0, "the connection ended within the answer");
    }
    Ok(())
}
