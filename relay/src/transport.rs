//! A TCP connection, with or without TLS on it, and the socket options that every connection of ours has.
//!
//! Generic over the TLS stream, because the relay is the server of its sessions and listener and sender are clients.
mod ahead;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

pub use ahead::{Ahead, ReadsAhead};

/// Silence after which the kernel asks whether the peer is still there. Shorter than the four minutes after which
/// balancers and NATs forget a connection.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(30);

/// Pause between such questions; after [`KEEP_ALIVE_PROBES`] unanswered ones the connection is dead.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Unanswered questions until the end: a dead peer holds its place for a minute at most.
const KEEP_ALIVE_PROBES: u32 = 3;

/// Either transport under a WebSocket: `P`, or TLS on it.
#[derive(Debug)]
pub enum Link<T, P = TcpStream> {
    /// Plain, on loopback.
    Tcp(P),
    /// TLS.
    Tls(Box<T>),
}

/// Sets what every connection of ours has: no delay for small writes, and the kernel's own liveness questions. A
/// spliced connection needs the kernel's, because a reader that only pauses answers those and no ping of WebSocket.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keep_alive = TcpKeepalive::new()
        .with_time(KEEP_ALIVE_IDLE)
        .with_interval(KEEP_ALIVE_INTERVAL)
        .with_retries(KEEP_ALIVE_PROBES);
    SockRef::from(stream).set_tcp_keepalive(&keep_alive)
}

/// Whether a TLS session failed because of the peer's certificate: issued by nobody who is trusted, for another name, or
/// expired.
pub(crate) fn is_untrusted(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
}

impl Link<TlsStream<Ahead<TcpStream>>> {
    /// Ends the connection in a way that nobody takes for a regular end: TCP's reset, and TLS without its farewell, which
    /// many do not miss.
    pub(crate) fn reset(self) {
        let stream = match &self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0.get_ref(),
        };
        // Without the option the peer sees a plain end.
        let _ = stream.set_zero_linger();
    }
}

impl<T: AsyncRead + Unpin, P: AsyncRead + Unpin> AsyncRead for Link<T, P> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl<T: AsyncWrite + Unpin, P: AsyncWrite + Unpin> AsyncWrite for Link<T, P> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
