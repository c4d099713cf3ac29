//! A transport whose first bytes can be looked at, and which counts what an unauthenticated peer sends. Later it reads much
//! at once below a TLS session, which asks for 4 KiB at a time: a busy tunnel would spend more on system calls than on
//! decryption.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::Refusal;

/// What a peer may send before it is through its handshakes (SD-10): two TLS client hellos with post-quantum key shares,
/// a client certificate chain and an upgrade request fit in it with room to spare.
pub const ALLOWANCE: usize = 16 * 1024;

/// What a TLS session asks for at once; who asks for more reads by itself.
const TLS_STEP: usize = 4096;

/// Read at once while a TLS session gets all that it asks for: four records.
const READ_AHEAD: usize = 64 * 1024;

/// Whoever sends no more than this at once is read without a buffer again.
const WORTH_A_BUFFER: usize = 2 * TLS_STEP;

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

    fn is_lifted(&self) -> bool {
        self.0.load(Ordering::Relaxed) == usize::MAX
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
    /// The peer sends more than is asked for.
    ahead: bool,
    allowance: Arc<Allowance>,
}

impl<IO: AsyncRead + Unpin> Peeked<IO> {
    /// Nothing has been read yet. What is read from `io` is spent from `allowance`.
    pub fn new(io: IO, allowance: Arc<Allowance>) -> Self {
        Self { io, front: BytesMut::new(), ahead: false, allowance }
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
            if this.front.is_empty() && !this.ahead {
                this.front = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        let (before, room) = (buf.filled().len(), buf.remaining());
        if this.ahead && room <= TLS_STEP {
            this.front.reserve(READ_AHEAD);
            let Poll::Ready(read) =
                poll_read_buf(Pin::new(&mut this.io), cx, &mut (&mut this.front).limit(READ_AHEAD))?
            else {
                // Idle, it holds nothing.
                this.front = BytesMut::new();
                this.ahead = false;
                return Poll::Pending;
            };
            this.ahead = read > WORTH_A_BUFFER;
            let count = read.min(room);
            buf.put_slice(&this.front[..count]);
            this.front.advance(count);
            return Poll::Ready(Ok(()));
        }
        match Pin::new(&mut this.io).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                let read = buf.filled().len() - before;
                this.ahead = read == room && room == TLS_STEP && this.allowance.is_lifted();
                Poll::Ready(this.allowance.spend(read))
            }
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Counts how often it is read.
    struct Counted<IO>(IO, usize);

    impl<IO: AsyncRead + Unpin> AsyncRead for Counted<IO> {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            self.1 += 1;
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    /// Reads `total` bytes as TLS does; gives how often the transport was read.
    async fn read(allowance: Arc<Allowance>, total: usize) -> (Vec<u8>, usize, usize) {
        let (mut near, far) = tokio::io::duplex(1 << 20);
        let sent: Vec<u8> = (0..total).map(|at| (at % 251) as u8).collect();
        near.write_all(&sent).await.unwrap();
        let mut peeked = Peeked::new(Counted(far, 0), allowance);
        let mut all = Vec::new();
        let mut step = [0; TLS_STEP];
        while all.len() < total {
            let count = peeked.read(&mut step).await.unwrap();
            all.extend_from_slice(&step[..count]);
        }
        let idle = peeked.read(&mut step);
        tokio::pin!(idle);
        assert!(futures_util::poll!(idle).is_pending());
        assert!(all == sent);
        (all, peeked.io.1, peeked.front.capacity())
    }

    #[tokio::test]
    async fn much_is_read_at_once_and_nothing_is_held_while_idle() {
        let (_, reads, held) = read(Allowance::counted_elsewhere(), 500_000).await;
        assert!(reads < 500_000 / READ_AHEAD + 4, "{reads}");
        assert_eq!(held, 0);
    }

    #[tokio::test]
    async fn before_the_handshakes_are_done_no_more_is_read_than_is_asked_for() {
        let (_, reads, _) = read(Arc::default(), ALLOWANCE).await;
        assert_eq!(reads, ALLOWANCE / TLS_STEP + 1);
    }
}
