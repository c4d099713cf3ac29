//! A transport whose first bytes can be looked at, and which counts what an unauthenticated peer sends.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::Refusal;

/// What a peer may send before it is through its handshakes (SD-10): two TLS client hellos with post-quantum key shares,
/// a client certificate chain and an upgrade request fit in it with room to spare.
pub const ALLOWANCE: usize = 16 * 1024;

/// What is left of [`ALLOWANCE`]; shared between the layer that counts and whoever lifts it.
#[derive(Debug)]
pub struct Allowance(AtomicUsize);

impl Default for Allowance {
    fn default() -> Self {
        Self(AtomicUsize::new(ALLOWANCE))
    }
}

impl Allowance {
    /// For a layer whose bytes are counted beneath it.
    pub fn counted_elsewhere() -> Arc<Self> {
        Arc::new(Self(AtomicUsize::new(usize::MAX)))
    }

    /// From now on anything goes.
    pub fn lift(&self) {
        self.0.store(usize::MAX, Ordering::Relaxed);
    }

    fn spend(&self, bytes: usize) -> io::Result<()> {
        // Only the one task that reads spends, so load and store do not race.
        match self.0.load(Ordering::Relaxed) {
            usize::MAX => Ok(()),
            left if left >= bytes => {
                self.0.store(left - bytes, Ordering::Relaxed);
                Ok(())
            }
            _ => Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                "the peer sent more than 16 KiB before its handshakes were done",
            )),
        }
    }
}

/// A transport with bytes to be read again in front of it.
#[derive(Debug)]
pub struct Peeked<IO> {
    io: IO,
    front: BytesMut,
    allowance: Arc<Allowance>,
}

impl<IO: AsyncRead + Unpin> Peeked<IO> {
    /// Nothing has been read yet. What is read from `io` is spent from `allowance`.
    pub fn new(io: IO, allowance: Arc<Allowance>) -> Self {
        Self { io, front: BytesMut::new(), allowance }
    }

    /// What has been read and not been consumed.
    pub fn peek(&self) -> &[u8] {
        &self.front
    }

    /// The first bytes, at most `count` of them.
    pub fn start(&self, count: usize) -> &[u8] {
        &self.front[..count.min(self.front.len())]
    }

    /// Reads until at least `count` bytes can be peeked at.
    ///
    /// # Errors
    /// When the peer closes or breaks the connection before that, or spends its allowance.
    pub async fn fill(&mut self, count: usize) -> Result<(), Refusal> {
        while self.front.len() < count {
            let missing = count - self.front.len();
            let mut chunk = (&mut self.io).take(missing as u64);
            let read = chunk.read_buf(&mut self.front).await?;
            if read == 0 {
                return Err(Refusal::Closed);
            }
            self.allowance.spend(read)?;
        }
        Ok(())
    }

    /// Consumes bytes that were peeked at.
    pub fn consume(&mut self, count: usize) {
        self.front.advance(count);
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Peeked<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.front.is_empty() {
            let count = this.front.len().min(buf.remaining());
            buf.put_slice(&this.front[..count]);
            this.front.advance(count);
            if this.front.is_empty() {
                this.front = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        match Pin::new(&mut this.io).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => Poll::Ready(this.allowance.spend(buf.filled().len() - before)),
            other => other,
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Peeked<IO> {
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
