//! The splice: joins two connections, of which at least one is a WebSocket, and moves bytes between them.
//!
//! The hot path of relay and listener. Frames are forwarded as they arrive: the header rewritten, the payload in pieces,
//! unmasked where it lies; never a whole message in memory, whatever length it announces. Type, message boundaries,
//! close code and half-close are kept; a frame that arrives in pieces leaves as fragments, so between two pieces a Pong,
//! a notice or a Close always fits. Nothing is made up: no preamble, no empty message.
//!
//! Each direction reads only when the other side has taken what was read before, so a slow reader slows its sender and
//! nothing is held but one buffer per direction; the two directions do not wait for each other. An idle direction holds
//! no buffer and costs no CPU.
//!
//! Ends: when both directions were closed, the splice is complete. A connection that dies without Close, or breaks the
//! protocol, ends the other abruptly as well, without a Close frame and on plain TCP by a reset: a Close or FIN would
//! make data that was cut short look whole.
mod buffers;
mod leg;
mod outbox;
mod pace;
#[cfg(test)]
mod tests;

use std::{
    future::poll_fn,
    io,
    task::{Context, Poll},
    time::Duration,
};

use proto::ws::frame::DecodeError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

pub use self::{
    buffers::{Buffers, Lease},
    leg::{Framing, Leg},
    pace::Pace,
};
use crate::transport::ReadsAhead;

/// With one direction closed, this long without a byte in the other ends the splice. Peers that close answer a Close
/// within a round trip; azbridge, which uses half-close, waits a minute for data. While bytes wait for our own pace,
/// nobody is silent.
pub const HALF_CLOSED_IDLE: Duration = Duration::from_secs(60);

/// Reads of each direction until other tasks get their time: some two mebibytes, a millisecond or two.
const TURNS: usize = 8;

/// How long a last Close frame and the end of TLS may take to leave.
const FAREWELL: Duration = Duration::from_secs(2);

/// One of the two connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first: for the relay the sender, for the listener the relay.
    A,
    /// The second: for the relay the listener, for the listener the target.
    B,
}

/// Why a splice ended.
#[derive(Debug)]
pub enum End {
    /// Both directions were closed.
    Complete,
    /// A connection ended without Close.
    Lost(Side, io::Error),
    /// A peer broke the WebSocket protocol; it was told by a Close frame.
    Broken(Side, DecodeError),
    /// A peer closed with a code that does not mean that its data is complete, and the other side is plain TCP, which
    /// has no codes.
    Cut(Side, u16),
    /// One direction was closed and the other stayed silent for [`HALF_CLOSED_IDLE`].
    HalfClosed,
    /// The process ends.
    Forced,
}

impl End {
    /// Stable name, for logs and metric labels.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Lost(..) => "lost",
            Self::Broken(..) => "protocol_error",
            Self::Cut(..) => "cut",
            Self::HalfClosed => "half_closed_idle",
            Self::Forced => "forced",
        }
    }

    /// Whose doing it was; `None` for a regular end and for our own.
    pub fn side(&self) -> Option<Side> {
        match self {
            Self::Lost(side, _) | Self::Broken(side, _) | Self::Cut(side, _) => Some(*side),
            Self::Complete | Self::HalfClosed | Self::Forced => None,
        }
    }
}

/// How far one direction is.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// Payload bytes forwarded.
    pub(crate) bytes: u64,
    /// The source has ended and that is on its way.
    ended: bool,
    /// That is delivered.
    done: bool,
    pace: Option<Pace>,
}

impl Flow {
    /// Nothing more is read yet, because too much was.
    fn is_held_back(&self) -> bool {
        !self.ended && self.pace.as_ref().is_some_and(Pace::is_in_debt)
    }
}

/// What a splice obeys from outside.
#[derive(Debug)]
pub struct Signals {
    /// The process drains: a notice goes out, nothing else changes.
    pub drain: CancellationToken,
    /// Everything must end at once.
    pub force: CancellationToken,
    /// Text message that tells side A of the draining, where it asked for our subprotocol.
    pub notice: Option<String>,
}

/// Two joined connections.
#[derive(Debug)]
pub struct Splice<A, B> {
    a: Leg<A>,
    b: Leg<B>,
    up: Flow,
    down: Flow,
    half_told: bool,
}

/// What the polled part of a splice reports.
enum Step {
    Half,
    Both,
}

impl<A, B> Splice<A, B>
where
    A: AsyncRead + AsyncWrite + ReadsAhead + Unpin,
    B: AsyncRead + AsyncWrite + ReadsAhead + Unpin,
{
    /// Joins two connections.
    pub fn new(a: Leg<A>, b: Leg<B>) -> Self {
        Self { a, b, up: Flow::default(), down: Flow::default(), half_told: false }
    }

    /// Slows both directions together down to a shared rate.
    pub fn paced(mut self, pace: &Pace) -> Self {
        self.up.pace = Some(pace.entered());
        self.down.pace = Some(pace.entered());
        self
    }

    /// The transport of side B.
    pub fn b(&self) -> &B {
        self.b.get_ref()
    }

    /// Payload bytes forwarded from A to B, and from B to A.
    pub fn bytes(&self) -> (u64, u64) {
        (self.up.bytes, self.down.bytes)
    }

    /// Moves bytes until the end. `report` is told the bytes forwarded since the last call, A to B and B to A, whenever
    /// some were. When it is cancelled, [`Splice::dismiss`] can still say why, or both connections are dropped with it.
    pub async fn run(&mut self, mut signals: Signals, mut report: impl FnMut(u64, u64)) -> End {
        let end = self.moved_until(&mut signals, &mut report).await;
        // Whatever the last words come to, the end is known.
        let _ = tokio::time::timeout(FAREWELL, self.farewell(&end)).await;
        end
    }

    /// Ends both connections by a Close, where [`Splice::run`] was cancelled between two readings.
    pub async fn dismiss(&mut self, code: u16, reason: &str) {
        self.a.close(code, reason);
        self.b.close(code, reason);
        // A peer that does not take its last words does without.
        let _ = tokio::time::timeout(FAREWELL, async { tokio::join!(self.a.finish(), self.b.finish()) }).await;
    }

    async fn moved_until(&mut self, signals: &mut Signals, report: &mut impl FnMut(u64, u64)) -> End {
        let mut reported = (0, 0);
        loop {
            let half = self.up.done || self.down.done;
            let before = self.bytes();
            tokio::select! {
                biased;
                // First what is frequent: the others cannot starve, since this ends with every pause of both peers.
                step = poll_fn(|cx| {
                    let step = self.poll(cx);
                    let now = self.bytes();
                    if now != reported {
                        report(now.0 - reported.0, now.1 - reported.1);
                        reported = now;
                    }
                    step
                }) => match step {
                    Ok(Step::Half) => {}
                    Ok(Step::Both) => return End::Complete,
                    Err(end) => return end,
                },
                () = signals.force.cancelled() => return End::Forced,
                () = signals.drain.cancelled(), if signals.notice.is_some() => {
                    if let Some(notice) = signals.notice.take() {
                        self.a.notify(notice);
                    }
                }
                () = tokio::time::sleep(HALF_CLOSED_IDLE), if half => {
                    if self.bytes() == before && !self.up.is_held_back() && !self.down.is_held_back() {
                        return End::HalfClosed;
                    }
                }
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, End>> {
        let Self { a, b, up, down, half_told } = self;
        for turn in 0.. {
            if turn == TURNS {
                // Somebody else's time; this goes on at once if nobody wants it.
                cx.waker().wake_by_ref();
                break;
            }
            // One read of each in turn: were one moved as far as it goes first, the other could wait for ever.
            let up_moved = move_on(cx, a, b, up).map_err(|broke| broke.on(Side::A, Side::B))?;
            let down_moved = move_on(cx, b, a, down).map_err(|broke| broke.on(Side::B, Side::A))?;
            if !up_moved && !down_moved {
                break;
            }
        }
        if up.done && down.done {
            return Poll::Ready(Ok(Step::Both));
        }
        if (up.done || down.done) && !*half_told {
            *half_told = true;
            return Poll::Ready(Ok(Step::Half));
        }
        // A Ping read by one direction is answered by the output of the other, which was polled before.
        poll_owed(cx, a).map_err(|error| End::Lost(Side::A, error))?;
        poll_owed(cx, b).map_err(|error| End::Lost(Side::B, error))?;
        Poll::Pending
    }

    /// Last words, as far as the peers take them.
    async fn farewell(&mut self, end: &End) {
        match end {
            End::Complete => {}
            End::HalfClosed => {
                self.a.close(1001, "no data while half closed");
                self.b.close(1001, "no data while half closed");
            }
            End::Forced => {
                self.a.close(1001, "going away");
                self.b.close(1001, "going away");
            }
            End::Broken(side, error) => {
                let (code, reason) = (error.close_code(), error.to_string());
                match side {
                    Side::A => self.a.close(code, &reason),
                    Side::B => self.b.close(code, &reason),
                }
            }
            // The peer that closed with a code gets it back, as after any Close.
            End::Cut(Side::A, code) => self.a.close(*code, ""),
            End::Cut(Side::B, code) => self.b.close(*code, ""),
            End::Lost(..) => {}
        }
        let silent = |side| match end {
            End::Lost(..) => true,
            End::Broken(told, _) | End::Cut(told, _) => *told != side,
            End::Complete | End::HalfClosed | End::Forced => false,
        };
        let (a_silent, b_silent) = (silent(Side::A), silent(Side::B));
        let _ = tokio::join!(
            async {
                if !a_silent {
                    self.a.finish().await;
                }
            },
            async {
                if !b_silent {
                    self.b.finish().await;
                }
            }
        );
    }
}

/// What broke, before anybody knows which side is which.
enum Broke {
    From(io::Error),
    To(io::Error),
    Frame(DecodeError),
    Code(u16),
}

impl Broke {
    fn on(self, from: Side, to: Side) -> End {
        match self {
            Self::From(error) => End::Lost(from, error),
            Self::To(error) => End::Lost(to, error),
            Self::Frame(error) => End::Broken(from, error),
            Self::Code(code) => End::Cut(from, code),
        }
    }
}

fn poll_owed<IO: AsyncRead + AsyncWrite + ReadsAhead + Unpin>(
    cx: &mut Context<'_>,
    leg: &mut Leg<IO>,
) -> io::Result<()> {
    match leg.owes().then(|| leg.poll_send(cx)) {
        Some(Poll::Ready(Err(error))) if !leg.has_ended() => Err(error),
        _ => Ok(()),
    }
}

/// Moves one direction on by one read. False when it waits for a peer or its pace, or was ended.
fn move_on<F, T>(cx: &mut Context<'_>, from: &mut Leg<F>, to: &mut Leg<T>, flow: &mut Flow) -> Result<bool, Broke>
where
    F: AsyncRead + AsyncWrite + ReadsAhead + Unpin,
    T: AsyncRead + AsyncWrite + ReadsAhead + Unpin,
{
    if flow.done {
        return Ok(false);
    }
    match to.poll_send(cx) {
        Poll::Pending => return Ok(false),
        Poll::Ready(Ok(())) => {}
        // The peer has said all it wanted and left; what was still for it is nobody's.
        Poll::Ready(Err(_)) if to.has_ended() => flow.ended = true,
        Poll::Ready(Err(error)) => return Err(Broke::To(error)),
    }
    if flow.ended {
        from.rest();
        flow.done = true;
        return Ok(true);
    }
    if flow.pace.as_mut().is_some_and(|pace| pace.poll_wait(cx).is_pending()) {
        from.rest();
        return Ok(false);
    }
    match from.poll_fill(cx) {
        Poll::Pending => return Ok(false),
        Poll::Ready(filled) => filled.map_err(Broke::From)?,
    }
    let moved = flow.bytes;
    flow.ended = from.forward(to, &mut flow.bytes)?;
    if let Some(pace) = &mut flow.pace {
        pace.spend(flow.bytes - moved);
    }
    Ok(true)
}

/// The text message by which a relay or listener announces that this path ends soon: `within_ms` is the default grace of
/// our programs. A hint: it can cause nothing but a new tunnel.
pub fn drain_notice() -> String {
    serde_json::json!({ "drain": { "within_ms": daemon::process::GRACE.as_millis() as u64 } }).to_string()
}
