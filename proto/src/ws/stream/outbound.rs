//! The writing side: frames around the caller's slices, answers to Ping, and the Close at the end.
//!
//! A frame's header promises a length. Once any of it is on the wire the rest must follow, so bytes that the transport
//! did not take at once are copied into [`Outgoing`] and reported as accepted; the next frame waits until they are gone.
//! Thus at most one frame and one Pong are ever held.
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker, ready},
};

use tokio::io::AsyncWrite;

use super::{
    FRAME_MAX,
    outgoing::{Head, Outgoing},
};
use crate::ws::{
    Role,
    frame::{HEADER_MAX, Header, Opcode, close_payload, put_control},
    keys::Keys,
};

/// Slices put into one frame. `h2` writes two to four, an inner TLS session one per record.
const SLICES_MAX: usize = 32;

/// What the reading side wants said.
#[derive(Debug)]
pub(super) enum Owed {
    /// Answer to a Ping. Only the latest is kept (RFC 6455 section 5.5.3), so a flood of pings queues nothing.
    Pong(Vec<u8>),
    /// The peer broke a rule: Close with this code, then nothing more.
    Fail(u16),
    /// The peer sent Close; ours echoes this code when our side ends.
    Echo(u16),
}

/// State of our direction.
#[derive(Debug)]
pub(super) struct Outbound {
    role: Role,
    keys: Keys,
    outgoing: Outgoing,
    pong: Option<Vec<u8>>,
    /// Code for our Close.
    code: u16,
    failed: bool,
    closed: bool,
    /// An answer was begun while reading and is not flushed yet.
    answering: bool,
    /// The task that waits in a write, flush or shutdown; the reading task must not steal its wake-up.
    parked: Option<Waker>,
}

impl Outbound {
    pub(super) fn new(role: Role) -> Self {
        Self {
            role,
            keys: Keys::default(),
            outgoing: Outgoing::default(),
            pong: None,
            code: 1000,
            failed: false,
            closed: false,
            answering: false,
            parked: None,
        }
    }

    pub(super) fn owe(&mut self, owed: Owed) {
        match owed {
            Owed::Pong(payload) => self.pong = Some(payload),
            Owed::Echo(code) => self.code = code,
            Owed::Fail(code) => (self.code, self.failed) = (code, true),
        }
    }

    fn key(&mut self) -> io::Result<Option<[u8; 4]>> {
        match self.role {
            Role::Client => self.keys.draw().map(Some),
            Role::Server => Ok(None),
        }
    }

    /// Writes one binary frame around as much of `slices` as fits, and says how much that was.
    pub(super) fn poll_frame<IO: AsyncWrite + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.closed || self.failed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(self.poll_drain(io, cx))?;
        let mut head = Head::new();
        let mut picked = [IoSlice::new(&[]); SLICES_MAX + 1];
        let (count, total) = pick(slices, &mut picked[1..], FRAME_MAX - self.header_len());
        if total == 0 {
            return Poll::Ready(Ok(0));
        }
        let pong = self.pong.take();
        if let Some(payload) = &pong {
            let key = self.key()?;
            head.put(|mut out| put_control(&mut out, Opcode::Pong, payload, key));
        }
        let key = self.key()?;
        let mut header = [0; HEADER_MAX];
        let len = Header { fin: true, opcode: Opcode::Binary, mask: key, len: total as u64 }.encode(&mut header);
        head.put(|out| out.put_slice(&header[..len]));

        if key.is_some() || !io.is_write_vectored() {
            let payload = Pieces { slices: &picked[1..=count], skip: 0 };
            self.outgoing.push_frame(head.bytes(), payload, total, key);
            return match self.poll_drain(io, cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                _ => Poll::Ready(Ok(total)),
            };
        }
        picked[0] = IoSlice::new(head.bytes());
        let written = match Pin::new(io).poll_write_vectored(cx, &picked[..=count]) {
            Poll::Pending => {
                self.pong = pong;
                return self.park(cx);
            }
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(written) => written?,
        };
        let head_done = written.min(head.bytes().len());
        let done = written - head_done;
        if done < total {
            let rest = Pieces { slices: &picked[1..=count], skip: done };
            self.outgoing.push_frame(&head.bytes()[head_done..], rest, total - done, None);
        }
        Poll::Ready(Ok(total))
    }

    /// Bytes of header on the largest frame that we send.
    fn header_len(&self) -> usize {
        match self.role {
            Role::Client => 8,
            Role::Server => 4,
        }
    }

    /// Sends what is promised and what is owed, and flushes the transport.
    pub(super) fn poll_flush<IO: AsyncWrite + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(io, cx))?;
        self.queue_answers()?;
        ready!(self.poll_drain(io, cx))?;
        match Pin::new(io).poll_flush(cx) {
            Poll::Pending => self.park(cx),
            Poll::Ready(done) => {
                self.outgoing.settle();
                Poll::Ready(done)
            }
        }
    }

    /// Sends Close behind everything else and flushes. Sending it twice is the same as once.
    pub(super) fn poll_close<IO: AsyncWrite + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.closed {
            ready!(self.poll_drain(io, cx))?;
            self.queue_close()?;
        }
        self.poll_flush(io, cx)
    }

    /// Called while reading: gets answers out as far as the transport takes them, without disturbing a waiting writer.
    /// An error here will show in the writer's or reader's next own call.
    pub(super) fn poll_answer<IO: AsyncWrite + Unpin>(&mut self, io: &mut IO, cx: &mut Context<'_>) {
        self.answering |= !self.closed && (self.failed || self.pong.is_some());
        if !self.answering {
            return;
        }
        let both = match &self.parked {
            Some(writer) if !writer.will_wake(cx.waker()) => {
                Waker::from(Arc::new(Both(writer.clone(), cx.waker().clone())))
            }
            _ => cx.waker().clone(),
        };
        let cx = &mut Context::from_waker(&both);
        self.answering = self.poll_send_answers(io, cx).is_pending();
    }

    fn poll_send_answers<IO: AsyncWrite + Unpin>(&mut self, io: &mut IO, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.outgoing.poll_drain(io, cx))?;
        self.queue_answers()?;
        ready!(self.outgoing.poll_drain(io, cx))?;
        Pin::new(io).poll_flush(cx)
    }

    /// Puts a waiting Pong, or the Close of a failed connection, into the empty outgoing buffer.
    fn queue_answers(&mut self) -> io::Result<()> {
        if self.closed {
            return Ok(());
        }
        if self.failed {
            return self.queue_close();
        }
        if let Some(payload) = self.pong.take() {
            self.queue_control(Opcode::Pong, &payload)?;
        }
        Ok(())
    }

    fn queue_close(&mut self) -> io::Result<()> {
        self.closed = true;
        // 1005 means "no code was given" and may not be sent (section 7.4.1): the echo is as empty as the peer's Close.
        let payload = if self.code == 1005 { Vec::new() } else { close_payload(self.code, "") };
        self.queue_control(Opcode::Close, &payload)
    }

    fn queue_control(&mut self, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
        let key = self.key()?;
        let mut head = Head::new();
        head.put(|mut out| put_control(&mut out, opcode, payload, key));
        self.outgoing.push(head.bytes());
        Ok(())
    }

    fn poll_drain<IO: AsyncWrite + Unpin>(&mut self, io: &mut IO, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.outgoing.poll_drain(io, cx) {
            Poll::Pending => self.park(cx),
            done => {
                self.parked = None;
                done
            }
        }
    }

    fn park<T>(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        match &mut self.parked {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

/// Fills `picked` with the front of `slices`, at most `limit` bytes; returns how many slices and bytes.
fn pick<'a>(slices: &'a [IoSlice<'_>], picked: &mut [IoSlice<'a>], limit: usize) -> (usize, usize) {
    let (mut count, mut total) = (0, 0);
    for slice in slices.iter().filter(|slice| !slice.is_empty()) {
        if count == picked.len() || total == limit {
            break;
        }
        let len = slice.len().min(limit - total);
        picked[count] = IoSlice::new(&slice[..len]);
        (count, total) = (count + 1, total + len);
    }
    (count, total)
}

/// The bytes of `slices` from `skip` on.
struct Pieces<'a> {
    slices: &'a [IoSlice<'a>],
    skip: usize,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let (first, rest) = self.slices.split_first()?;
            self.slices = rest;
            let skipped = self.skip.min(first.len());
            self.skip -= skipped;
            if skipped < first.len() {
                return Some(&first[skipped..]);
            }
        }
    }
}

/// Wakes the waiting writer and the reader that wrote in its place.
struct Both(Waker, Waker);

impl Wake for Both {
    fn wake(self: Arc<Self>) {
        self.0.wake_by_ref();
        self.1.wake_by_ref();
    }
}
