//! Whose turn it is on a connection, and how long that may take.
//!
//! A connection of HTTP senders carries one request after the other. While a head is on its way it is unproven, as at the
//! beginning; while it is answered, whoever answers watches the time; and between two requests it may be kept for a
//! while. A peer that takes nothing of what is written to it is held to a limit at all times.
use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::{
    door::{Visitor, WHOLE_HEAD},
    share::Place,
    upgrade::Accepted,
};

/// How long a connection is kept between two requests. Clients' pools let go after a minute or so; kept longer than
/// that, they close first, and no request meets a connection that is just being closed.
const KEPT_IDLE: Duration = Duration::from_secs(120);

/// Connections that are kept for another request, in all; those that are just being answered count. Beyond, answers end
/// the connection and say so, which costs the client a handshake and nothing else.
pub(crate) const KEPT_MAX: usize = 4096;

/// How long a peer may take nothing that is written to it, where the entity does not say.
const STALL: Duration = Duration::from_secs(60);

/// The turns of one connection.
#[derive(Debug)]
pub(crate) struct Turns {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    turn: Turn,
    stall: Duration,
    late: Option<&'static str>,
    cut: bool,
}

#[derive(Debug)]
enum Turn {
    /// The peer's, which has begun a head, or must. One that comes whole is not worth counting.
    Head { until: Instant, counted: bool },
    /// Ours.
    Answer,
    /// Nobody's.
    Idle { until: Instant, _kept: Option<Place> },
}

impl Turns {
    /// A connection that says nothing yet.
    pub(crate) fn new() -> Self {
        let turn = Turn::Head { until: Instant::now() + WHOLE_HEAD, counted: true };
        Self { state: Mutex::new(State { turn, stall: STALL, late: None, cut: false }) }
    }

    /// Its first head must be there by then.
    pub(crate) fn begins(&self) -> Instant {
        let until = Instant::now() + WHOLE_HEAD;
        self.state().turn = Turn::Head { until, counted: true };
        until
    }

    /// A request was read.
    pub(crate) fn asked(&self) {
        let mut state = self.state();
        (state.turn, state.stall) = (Turn::Answer, STALL);
    }

    /// How long the peer may take nothing of the answer.
    pub(crate) fn set_stall(&self, stall: Duration) {
        self.state().stall = stall;
    }

    /// The answer is given. Without `kept` it said that the connection ends.
    pub(crate) fn answered(&self, kept: Option<Place>) {
        self.state().turn = Turn::Idle { until: Instant::now() + KEPT_IDLE, _kept: kept };
    }

    /// The answer was cut short: the connection must not end as if it were whole.
    pub(crate) fn cut(&self) {
        self.state().cut = true;
    }

    /// Whether one is being given.
    pub(crate) fn is_answering(&self) -> bool {
        matches!(self.state().turn, Turn::Answer)
    }

    pub(crate) fn was_cut(&self) -> bool {
        self.state().cut
    }

    /// What took too long.
    pub(crate) fn late(&self) -> Option<&'static str> {
        self.state().late
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until when the next byte has to come; `None` when it may take its time.
    fn next_byte(&self) -> Option<Instant> {
        match &self.state().turn {
            Turn::Head { until, .. } | Turn::Idle { until, .. } => Some(*until),
            Turn::Answer => None,
        }
    }

    fn too_late(&self) -> io::Error {
        let mut state = self.state();
        state.late = Some(match state.turn {
            Turn::Head { .. } => "head_too_slow",
            Turn::Idle { .. } => "idle",
            Turn::Answer => "stalled",
        });
        io::ErrorKind::TimedOut.into()
    }

    /// Bytes came; true when they begin a head.
    fn heard(&self) -> bool {
        let mut state = self.state();
        let begins = matches!(state.turn, Turn::Idle { .. });
        if begins {
            state.turn = Turn::Head { until: Instant::now() + WHOLE_HEAD, counted: false };
        }
        begins
    }

    /// More of a head is waited for; true when that has to be counted.
    fn is_slow(&self) -> bool {
        match &mut self.state().turn {
            Turn::Head { counted, .. } => !std::mem::replace(counted, true),
            Turn::Answer | Turn::Idle { .. } => false,
        }
    }

    fn crowded(&self) -> io::Error {
        self.state().late = Some("crowded");
        io::ErrorKind::ConnectionAborted.into()
    }
}

/// A connection that is held to its turns.
#[derive(Debug)]
pub(crate) struct Timed {
    io: Accepted,
    visitor: Arc<Visitor>,
    reading: Option<Pin<Box<Sleep>>>,
    writing: Option<Pin<Box<Sleep>>>,
}

impl Timed {
    pub(crate) fn new(io: Accepted, visitor: Arc<Visitor>) -> Self {
        Self { io, visitor, reading: None, writing: None }
    }

    pub(crate) fn into_inner(self) -> Accepted {
        self.io
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Some(until) = self.visitor.turns.next_byte() else {
            self.reading = None;
            return Poll::Pending;
        };
        let sleep = self.reading.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if sleep.deadline() != until {
            sleep.as_mut().reset(until);
        }
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(self.visitor.turns.too_late())
    }

    /// Whether something waits to be written.
    pub(crate) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// What a write came to, with its time.
    fn poll_stalled<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.writing = None;
            return written;
        }
        let stall = || Box::pin(sleep_until(Instant::now() + self.visitor.turns.state().stall));
        ready!(self.writing.get_or_insert_with(stall).as_mut().poll(cx));
        // What waits to be written is the rest of an answer, even if all of it was given.
        self.visitor.turns.cut();
        Poll::Ready(Err(self.visitor.turns.too_late()))
    }
}

impl AsyncRead for Timed {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        match Pin::new(&mut this.io).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                if buf.filled().len() > before && this.visitor.turns.heard() {
                    this.visitor.begins_again();
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending if this.visitor.turns.is_slow() && !this.visitor.is_unproven_again() => {
                Poll::Ready(Err(this.visitor.turns.crowded()))
            }
            Poll::Pending => this.poll_late(cx).map(Err),
        }
    }
}

impl AsyncWrite for Timed {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        this.poll_stalled(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.poll_stalled(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.io).poll_flush(cx);
        this.poll_stalled(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let ended = Pin::new(&mut this.io).poll_shutdown(cx);
        this.poll_stalled(cx, ended)
    }
}
