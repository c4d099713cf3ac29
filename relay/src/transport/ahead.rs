//! Large reads and writes below TLS, which asks for 4 KiB at a time: a busy connection would spend more on system calls
//! than on decryption.
//!
//! How much is read at once is set from outside, because what was read and not yet asked for is memory. Bytes that are
//! held are given out first, whatever was set since; with 0, nothing is held beyond them.
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_util::io::poll_read_buf;

use super::Link;
use crate::dial::Carrier;

/// A transport that can be told to read ahead of TLS, and to write much at once.
pub trait ReadsAhead {
    /// Lets TLS take `bytes` before they are written. Whoever gives it no more than that at once is slowed down by the
    /// peer all the same.
    fn take_at_once(&mut self, bytes: usize);

    /// Reads up to `bytes` at once from now on; with 0, only what is asked for.
    fn read_ahead(&mut self, bytes: usize);

    /// Bytes that were read and not yet asked for.
    fn held(&self) -> usize;
}

/// A connection below TLS.
#[derive(Debug)]
pub struct Ahead<IO> {
    io: IO,
    held: BytesMut,
    most: usize,
}

impl<IO> Ahead<IO> {
    /// Reads what is asked for, until told otherwise.
    pub fn new(io: IO) -> Self {
        Self { io, held: BytesMut::new(), most: 0 }
    }

    /// The connection.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }
}

impl<IO> ReadsAhead for Ahead<IO> {
    fn take_at_once(&mut self, _: usize) {}

    fn read_ahead(&mut self, bytes: usize) {
        if self.held.is_empty() && bytes != self.most {
            self.held = BytesMut::new();
        }
        self.most = bytes;
    }

    fn held(&self) -> usize {
        self.held.len()
    }
}

/// Whoever reads TCP itself sizes its reads.
impl ReadsAhead for TcpStream {
    fn take_at_once(&mut self, _: usize) {}

    fn read_ahead(&mut self, _: usize) {}

    fn held(&self) -> usize {
        0
    }
}

impl ReadsAhead for Carrier {
    fn take_at_once(&mut self, _: usize) {}

    fn read_ahead(&mut self, _: usize) {}

    fn held(&self) -> usize {
        0
    }
}

impl<IO: ReadsAhead> ReadsAhead for tokio_rustls::server::TlsStream<IO> {
    fn take_at_once(&mut self, bytes: usize) {
        self.get_mut().1.set_buffer_limit(Some(bytes));
    }

    fn read_ahead(&mut self, bytes: usize) {
        self.get_mut().0.read_ahead(bytes);
    }

    fn held(&self) -> usize {
        self.get_ref().0.held()
    }
}

impl<IO: ReadsAhead> ReadsAhead for tokio_rustls::client::TlsStream<IO> {
    fn take_at_once(&mut self, bytes: usize) {
        self.get_mut().1.set_buffer_limit(Some(bytes));
    }

    fn read_ahead(&mut self, bytes: usize) {
        self.get_mut().0.read_ahead(bytes);
    }

    fn held(&self) -> usize {
        self.get_ref().0.held()
    }
}

impl<T: ReadsAhead, P: ReadsAhead> ReadsAhead for Link<T, P> {
    fn take_at_once(&mut self, bytes: usize) {
        match self {
            Self::Tcp(stream) => stream.take_at_once(bytes),
            Self::Tls(stream) => stream.take_at_once(bytes),
        }
    }

    fn read_ahead(&mut self, bytes: usize) {
        match self {
            Self::Tcp(stream) => stream.read_ahead(bytes),
            Self::Tls(stream) => stream.read_ahead(bytes),
        }
    }

    fn held(&self) -> usize {
        match self {
            Self::Tcp(stream) => stream.held(),
            Self::Tls(stream) => stream.held(),
        }
    }
}

#[cfg(test)]
impl ReadsAhead for tokio::io::DuplexStream {
    fn take_at_once(&mut self, _: usize) {}

    fn read_ahead(&mut self, _: usize) {}

    fn held(&self) -> usize {
        0
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Ahead<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { io, held, most } = self.get_mut();
        if held.is_empty() {
            if *most <= buf.remaining() {
                return Pin::new(io).poll_read(cx, buf);
            }
            held.reserve(*most);
            // The end, too, is nothing held.
            ready!(poll_read_buf(Pin::new(io), cx, held))?;
        }
        let count = buf.remaining().min(held.len());
        buf.put_slice(&held[..count]);
        held.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Ahead<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn bytes_come_in_order_however_far_it_reads_ahead() {
        let (near, mut far) = duplex(1 << 16);
        let mut ahead = Ahead::new(near);
        let sent: Vec<u8> = (0..10_000_u32).map(|at| ((at * 7) >> 2) as u8).collect();
        far.write_all(&sent).await.unwrap();
        drop(far);
        let mut read = Vec::new();
        for most in [0, 5000, 10, 0, 1 << 16].into_iter().cycle() {
            ahead.read_ahead(most);
            let mut piece = [0; 700];
            match ahead.read(&mut piece).await.unwrap() {
                0 => break,
                count => read.extend_from_slice(&piece[..count]),
            }
        }
        assert!(read == sent, "bytes changed");
    }

    #[tokio::test]
    async fn one_large_read_serves_many_small_ones() {
        let (near, mut far) = duplex(1 << 16);
        let mut ahead = Ahead::new(near);
        ahead.read_ahead(10_000);
        far.write_all(&[7; 9000]).await.unwrap();
        ahead.read_exact(&mut [0; 100]).await.unwrap();
        assert_eq!(ahead.held.len(), 8900);
        ahead.read_exact(&mut [0; 8900]).await.unwrap();
        assert!(ahead.held.capacity() > 0);
        ahead.read_ahead(0);
        assert_eq!(ahead.held.capacity(), 0);
    }
}
