//! Who gets the processor: both directions of a splice, other tasks, and nobody while nothing moves.
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::io::ReadBuf;

use super::{super::leg::READ_MAX, *};

/// A peer that has always more to say, and takes everything.
struct Endless {
    frame: Vec<u8>,
    at: usize,
    took: Vec<u8>,
}

impl Endless {
    fn new(size: usize) -> Self {
        let mut frame = Vec::new();
        put_frame(&mut frame, true, Opcode::Binary, &vec![7; size]);
        Self { frame, at: 0, took: Vec::new() }
    }
}

impl ReadsAhead for Endless {
    fn take_at_once(&mut self, _: usize) {}

    fn read_ahead(&mut self, _: usize) {}

    fn held(&self) -> usize {
        0
    }
}

impl AsyncRead for Endless {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = (self.frame.len() - self.at).min(buf.remaining());
        buf.put_slice(&self.frame[self.at..self.at + count]);
        self.at = (self.at + count) % self.frame.len();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.took.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A peer that counts how often it is looked at, and says nothing.
struct Silent(Arc<AtomicUsize>);

impl ReadsAhead for Silent {
    fn take_at_once(&mut self, _: usize) {}

    fn read_ahead(&mut self, _: usize) {}

    fn held(&self) -> usize {
        0
    }
}

impl AsyncRead for Silent {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.fetch_add(1, Relaxed);
        Poll::Pending
    }
}

impl AsyncWrite for Silent {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        self.0.fetch_add(1, Relaxed);
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn leg<IO: AsyncRead + AsyncWrite + ReadsAhead + Unpin>(io: IO) -> Leg<IO> {
    Leg::new(io, SERVER, BytesMut::new(), Buffers::new(1 << 30))
}

#[tokio::test]
async fn a_direction_that_never_pauses_starves_neither_the_other_nor_other_tasks() {
    let mut splice = Splice::new(leg(Endless::new(100_000)), leg(Endless::new(100)));
    let mut signals = signals();
    {
        let mut report = |_, _| {};
        let run = splice.moved_until(&mut signals, &mut report);
        tokio::pin!(run);
        // One look, and it comes back although there would be more.
        assert!(futures_util::poll!(run.as_mut()).is_pending());
    }
    let (up, down) = splice.bytes();
    assert!(up > 0 && down > 0, "{up} {down}");
    assert!(up + down <= 2 * (TURNS * READ_MAX) as u64, "{up} {down}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_splice_is_not_looked_at() {
    let (a, b) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut splice = Splice::new(leg(Silent(a.clone())), leg(Silent(b.clone())));
    let idle = tokio::time::timeout(Duration::from_secs(24 * 3600), splice.run(signals(), |_, _| {})).await;
    assert!(idle.is_err());
    // Once when it began, and once when the day was over.
    assert!(a.load(Relaxed) <= 2 && b.load(Relaxed) <= 2, "{a:?} {b:?}");
}
