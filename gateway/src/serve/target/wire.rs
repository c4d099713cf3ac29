//! One connection to a target, whatever is beneath: TCP, TLS over it, or a Unix socket.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream, tcp, unix},
};
use tokio_rustls::client::TlsStream;

/// A connection.
#[derive(Debug)]
pub enum Wire {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS over TCP. Boxed, because a session is large and most connections have none.
    Tls(Box<TlsStream<TcpStream>>),
    /// A socket of this machine.
    Unix(UnixStream),
}

impl Wire {
    /// Makes closing it a reset, so that the target learns that this was no good end. If that cannot be, it learns it by
    /// silence.
    pub fn break_off(&self) {
        let tcp = match self {
            Self::Tcp(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
            Self::Unix(_) => return,
        };
        let _ = tcp.set_zero_linger();
    }

    /// Both directions, to be used at once.
    pub fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        match self {
            Self::Tcp(tcp) => {
                let (read, write) = tcp.split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            Self::Tls(tls) => {
                let (read, write) = tokio::io::split(&mut **tls);
                (ReadHalf::Tls(read), WriteHalf::Tls(write))
            }
            Self::Unix(unix) => {
                let (read, write) = unix.split();
                (ReadHalf::Unix(read), WriteHalf::Unix(write))
            }
        }
    }

    fn io(&mut self) -> Pin<&mut dyn Both> {
        let io: &mut dyn Both = match self {
            Self::Tcp(tcp) => tcp,
            Self::Tls(tls) => &mut **tls,
            Self::Unix(unix) => unix,
        };
        Pin::new(io)
    }
}

/// Reads and writes.
trait Both: AsyncRead + AsyncWrite + Unpin {}

impl<IO: AsyncRead + AsyncWrite + Unpin> Both for IO {}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.io().poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.io().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_shutdown(cx)
    }
}

/// The direction from the target.
#[derive(Debug)]
pub enum ReadHalf<'a> {
    /// See [`Wire`].
    Tcp(tcp::ReadHalf<'a>),
    /// See [`Wire`].
    Tls(tokio::io::ReadHalf<&'a mut TlsStream<TcpStream>>),
    /// See [`Wire`].
    Unix(unix::ReadHalf<'a>),
}

impl ReadHalf<'_> {
    /// Reads what has arrived, at most about `size`; 0 at the end. While a plain connection is silent it holds no
    /// buffer. Cancel-safe.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn arrived(&mut self, buffer: &mut BytesMut, size: usize) -> io::Result<usize> {
        loop {
            let read = match self {
                Self::Tcp(half) => {
                    half.readable().await?;
                    buffer.reserve(size);
                    half.try_read_buf(buffer)
                }
                Self::Unix(half) => {
                    half.readable().await?;
                    buffer.reserve(size);
                    half.try_read_buf(buffer)
                }
                // What has arrived may not be a whole record, so only reading tells.
                Self::Tls(half) => {
                    buffer.reserve(size);
                    half.read_buf(buffer).await
                }
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }
}

/// The direction to the target.
#[derive(Debug)]
pub enum WriteHalf<'a> {
    /// See [`Wire`].
    Tcp(tcp::WriteHalf<'a>),
    /// See [`Wire`].
    Tls(tokio::io::WriteHalf<&'a mut TlsStream<TcpStream>>),
    /// See [`Wire`].
    Unix(unix::WriteHalf<'a>),
}

impl<'a> WriteHalf<'a> {
    fn io(&mut self) -> Pin<&mut (dyn AsyncWrite + Unpin + 'a)> {
        Pin::new(match self {
            Self::Tcp(half) => half,
            Self::Tls(half) => half,
            Self::Unix(half) => half,
        })
    }
}

impl AsyncWrite for WriteHalf<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.io().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_shutdown(cx)
    }
}
