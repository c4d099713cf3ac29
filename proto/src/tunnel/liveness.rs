//! Whether the peer is still there: after a time without a byte one PING goes out, and after as long again without
//! any byte the tunnel is dead. One PING is outstanding at most; each measures the round trip, so a busy connection
//! sends one now and then, too.
//!
//! What counts is bytes received, whoever sent them: a peer that is busy sending need not answer quickly.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use h2::{Ping, PingPong};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use super::{hold::Ledger, settings::Settings, window::Pace};

/// When the last byte came.
#[derive(Debug, Clone)]
struct LastByte {
    start: Instant,
    nanos: Arc<AtomicU64>,
}

impl LastByte {
    fn now() -> Self {
        Self { start: Instant::now(), nanos: Arc::new(AtomicU64::new(0)) }
    }

    fn mark(&self) {
        let nanos = self.start.elapsed().as_nanos();
        self.nanos.store(u64::try_from(nanos).unwrap_or(u64::MAX), Relaxed);
    }

    fn at(&self) -> Instant {
        self.start + Duration::from_nanos(self.nanos.load(Relaxed))
    }
}

/// A transport that remembers when it last received a byte, and tells how many came.
#[derive(Debug)]
pub(super) struct Observed<IO> {
    io: IO,
    last: LastByte,
    ledger: Arc<Ledger>,
}

impl<IO> Observed<IO> {
    pub(super) fn new(io: IO, ledger: Arc<Ledger>) -> Self {
        Self { io, last: LastByte::now(), ledger }
    }

    /// What watches over a connection on this transport.
    pub(super) fn liveness(&self, settings: &Settings, pace: Arc<Pace>) -> Liveness {
        Liveness {
            last: self.last.clone(),
            pace,
            ping: Pinger::Absent,
            // At once: the first PING measures the round trip of the idle path.
            timer: Box::pin(tokio::time::sleep_until(self.last.start)),
            probed: None,
            ping_after: settings.ping_after,
            dead_after: settings.dead_after,
        }
    }
}

type Pinged = Pin<Box<dyn Future<Output = Option<PingPong>> + Send>>;

enum Pinger {
    /// Not given yet, or the connection is closing.
    Absent,
    Idle(PingPong),
    Waiting {
        since: Instant,
        pong: Pinged,
    },
}

/// Watches over one connection; polled by its driver.
pub(super) struct Liveness {
    last: LastByte,
    pace: Arc<Pace>,
    ping: Pinger,
    timer: Pin<Box<Sleep>>,
    /// Since when silence has been asked about.
    probed: Option<Instant>,
    ping_after: Duration,
    dead_after: Duration,
}

impl Liveness {
    pub(super) fn start(&mut self, ping: Option<PingPong>) {
        if let Some(ping) = ping {
            self.ping = Pinger::Idle(ping);
        }
    }

    /// Ready when the peer is dead.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.poll_pong(cx);
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            let last = self.last.at();
            // An answer may come within the clock's resolution.
            if self.probed.is_some_and(|probed| last >= probed) {
                self.probed = None;
            }
            let next = match self.probed {
                Some(probed) if now - probed >= self.dead_after => return Poll::Ready(()),
                Some(probed) => probed + self.dead_after,
                None if now - last >= self.ping_after => {
                    self.send();
                    self.probed = Some(now);
                    now + self.dead_after
                }
                None => {
                    // Busy, or at the very start: only the round trip is of interest.
                    self.send();
                    last + self.ping_after
                }
            };
            self.timer.as_mut().reset(next);
        }
    }

    fn send(&mut self) {
        self.ping = match std::mem::replace(&mut self.ping, Pinger::Absent) {
            Pinger::Idle(mut ping) => {
                let pong = async move { ping.ping(Ping::opaque()).await.ok().map(|_| ping) };
                Pinger::Waiting { since: Instant::now(), pong: Box::pin(pong) }
            }
            other => other,
        };
    }

    fn poll_pong(&mut self, cx: &mut Context<'_>) {
        let Pinger::Waiting { since, pong } = &mut self.ping else { return };
        if let Poll::Ready(ping) = pong.as_mut().poll(cx) {
            if ping.is_some() {
                self.pace.measured(since.elapsed());
            }
            self.ping = ping.map_or(Pinger::Absent, Pinger::Idle);
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Observed<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        let received = buf.filled().len() - before;
        if received > 0 {
            self.last.mark();
            self.ledger.received(received);
        }
        Poll::Ready(read)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Observed<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
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
