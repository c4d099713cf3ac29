//! What carries the bytes to a destination: its own TCP connection, or a tunnel through a proxy.
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use crate::transport::Link;

/// A connection to a destination.
#[derive(Debug)]
pub enum Carrier {
    /// TCP to the destination itself.
    Straight(TcpStream),
    /// Through a proxy.
    Tunnel(Box<Tunnel>),
}

/// A proxy's connection after its 200.
#[derive(Debug)]
pub struct Tunnel {
    pub(super) io: Link<TlsStream<TcpStream>>,
    /// Bytes of the destination that came together with the proxy's answer.
    pub(super) ahead: BytesMut,
}

impl Carrier {
    /// The TCP connection at the bottom: to the destination, or to the proxy.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Straight(stream) => stream,
            Self::Tunnel(tunnel) => match &tunnel.io {
                Link::Tcp(stream) => stream,
                Link::Tls(stream) => stream.get_ref().0,
            },
        }
    }

    /// Where the destination is; nothing where only a proxy knows.
    pub fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Straight(stream) => stream.peer_addr().ok(),
            Self::Tunnel(_) => None,
        }
    }

    fn writer(self: Pin<&mut Self>) -> Pin<&mut (dyn AsyncWrite + Unpin)> {
        let writer: &mut (dyn AsyncWrite + Unpin) = match self.get_mut() {
            Self::Straight(stream) => stream,
            Self::Tunnel(tunnel) => &mut tunnel.io,
        };
        Pin::new(writer)
    }
}

impl AsyncRead for Carrier {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Straight(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tunnel(tunnel) if tunnel.ahead.is_empty() => Pin::new(&mut tunnel.io).poll_read(cx, buf),
            Self::Tunnel(tunnel) => {
                let length = tunnel.ahead.len().min(buf.remaining());
                buf.put_slice(&tunnel.ahead[..length]);
                tunnel.ahead.advance(length);
                if tunnel.ahead.is_empty() {
                    // It lives as long as the connection; its memory need not.
                    tunnel.ahead = BytesMut::new();
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.writer().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writer().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Straight(stream) => stream.is_write_vectored(),
            Self::Tunnel(tunnel) => tunnel.io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer().poll_shutdown(cx)
    }
}
