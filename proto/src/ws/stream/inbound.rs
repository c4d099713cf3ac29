//! The reading side: raw bytes into the caller's buffer, payload unmasked there and closed up over the headers.
//!
//! Two ways of reading, chosen by the size of the last frame. Large frames: a few bytes for the header, then exactly the
//! payload, which is never moved. Small frames: as much as the caller's buffer takes, many frames in one read, payload
//! moved over the headers. Whatever is left of an incomplete header waits in a small buffer of its own.
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, BytesMut};
use tokio::{
    io::{AsyncRead, ReadBuf},
    time::Instant,
};
use tokio_util::io::poll_read_buf;

use super::{CutShort, notices::Notices, outbound::Owed};
use crate::ws::{
    Role,
    flood::Allowance,
    frame::{DecodeError, Decoder, HEADER_MAX, Opcode, Step, close_reason},
};

/// From this length on a frame is read by itself: one more read costs less than moving this many bytes.
const LARGE: u64 = 8 * 1024;

/// An empty buffer of at most this size is kept for the next header: two headers and a Ping fit.
const AHEAD_KEPT: usize = 256;

/// How the peer's direction ended.
#[derive(Debug, Clone, Copy)]
enum End {
    /// By Close with this code.
    Closed(u16),
    /// By a broken rule.
    Broken(DecodeError),
    /// Without a Close.
    Lost,
}

impl End {
    /// A Close without a code says nothing against what came before it.
    fn is_cut(code: u16) -> bool {
        code != 1000 && code != 1005
    }

    fn result(self, refuses_cuts: bool) -> io::Result<()> {
        match self {
            Self::Closed(code) if refuses_cuts && Self::is_cut(code) => {
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, CutShort(code)))
            }
            Self::Closed(_) => Ok(()),
            Self::Broken(error) => Err(error.into()),
            Self::Lost => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "connection ended without a Close frame")),
        }
    }
}

/// State of the peer's direction.
#[derive(Debug)]
pub(super) struct Inbound {
    decoder: Decoder,
    ahead: Ahead,
    /// The current frame is a large one, or the last one was.
    large: bool,
    end: Option<End>,
    refuses_cuts: bool,
    /// Text messages are the caller's, as binary ones are.
    takes_text: bool,
    owed: Option<Owed>,
    allowance: Allowance,
    pub(super) notices: Notices,
}

/// Bytes read and not yet decoded: what came behind the handshake, or the front of a header.
struct Ahead(BytesMut);

impl std::fmt::Debug for Ahead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Ahead").field(&self.0.len()).finish()
    }
}

impl Inbound {
    pub(super) fn new(role: Role, read_ahead: BytesMut) -> Self {
        Self {
            decoder: Decoder::new(role),
            ahead: Ahead(read_ahead),
            large: false,
            end: None,
            refuses_cuts: false,
            takes_text: false,
            owed: None,
            allowance: Allowance::default(),
            notices: Notices::default(),
        }
    }

    pub(super) fn refuse_cuts(&mut self) {
        self.refuses_cuts = true;
    }

    pub(super) fn take_text(&mut self) {
        self.takes_text = true;
    }

    pub(super) fn ended(&self) -> bool {
        self.end.is_some()
    }

    pub(super) fn close_code(&self) -> Option<u16> {
        match self.end {
            Some(End::Closed(code)) => Some(code),
            _ => None,
        }
    }

    /// What the writing side has to say about what was just read.
    pub(super) fn take_owed(&mut self) -> Option<Owed> {
        self.owed.take()
    }

    /// Reads until `buf` is full or the transport has nothing more. With bytes in `buf` the outcome is to be ignored; it
    /// will come again.
    pub(super) fn poll_fill<IO: AsyncRead + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while buf.has_remaining_mut() {
            if self.take_ahead(buf) {
                continue;
            }
            if let Some(end) = self.end {
                return Poll::Ready(end.result(self.refuses_cuts));
            }
            let in_payload = self.decoder.remaining() > 0;
            let read = if !self.ahead.0.is_empty() || self.large && !in_payload {
                ready!(self.poll_header(io, cx))?
            } else {
                let start = buf.filled().len();
                let room = buf.remaining();
                let most = if self.large { limit(self.decoder.remaining(), room) } else { room };
                let read = ready!(poll_read_buf(Pin::new(&mut *io), cx, &mut (&mut *buf).limit(most)))?;
                let kept = self.decode(&mut buf.filled_mut()[start..]);
                buf.set_filled(start + kept);
                read
            };
            if read == 0 {
                self.end = Some(End::Lost);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads a header's worth of bytes behind those that wait.
    fn poll_header<IO: AsyncRead + Unpin>(&mut self, io: &mut IO, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut few = [0; HEADER_MAX];
        let mut read = ReadBuf::new(&mut few);
        ready!(Pin::new(io).poll_read(cx, &mut read))?;
        self.ahead.0.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }

    /// One step over the waiting bytes; false when they are not enough for one.
    fn take_ahead(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        if self.end.is_some() {
            return false;
        }
        let mut ahead = std::mem::take(&mut self.ahead.0);
        let most = if self.decoder.remaining() > 0 { ahead.len().min(buf.remaining()) } else { ahead.len() };
        let progress = match self.decoder.step(&mut ahead[..most]) {
            Ok(None) => false,
            Ok(Some((step, used))) => {
                if self.judge(step, &ahead[..used]) {
                    buf.put_slice(&ahead[..used]);
                }
                ahead.advance(used);
                true
            }
            Err(error) => {
                self.fail(error);
                true
            }
        };
        if !ahead.is_empty() || ahead.capacity() <= AHEAD_KEPT {
            self.ahead.0 = ahead;
        }
        progress
    }

    /// Decodes `raw` where it lies and returns how many bytes of payload now stand at its front.
    fn decode(&mut self, raw: &mut [u8]) -> usize {
        let (mut from, mut to) = (0, 0);
        while self.end.is_none() {
            match self.decoder.step(&mut raw[from..]) {
                Ok(None) => {
                    self.ahead.0.extend_from_slice(&raw[from..]);
                    break;
                }
                Ok(Some((step, used))) => {
                    if self.judge(step, &raw[from..from + used]) {
                        if from != to {
                            raw.copy_within(from..from + used, to);
                        }
                        to += used;
                    }
                    from += used;
                }
                Err(error) => self.fail(error),
            }
        }
        to
    }

    /// Acts on one step; true when `bytes` are the caller's.
    fn judge(&mut self, step: Step, bytes: &[u8]) -> bool {
        match step {
            Step::Start(header) => {
                self.large = header.len >= LARGE;
                if header.len == 0 {
                    self.spend();
                }
                false
            }
            Step::Payload { message, last, .. } => {
                if !bytes.is_empty() {
                    self.allowance.earn();
                }
                if message == Opcode::Binary || self.takes_text {
                    return true;
                }
                self.notices.take(bytes, last);
                false
            }
            Step::Control { opcode, at } => {
                self.control(opcode, &bytes[at..]);
                false
            }
        }
    }

    fn control(&mut self, opcode: Opcode, payload: &[u8]) {
        match opcode {
            Opcode::Close => {
                let code = close_reason(payload).map_or(1005, |(code, _)| code);
                self.end = Some(End::Closed(code));
                self.owed = Some(Owed::Echo(code));
            }
            Opcode::Ping => {
                self.owed = Some(Owed::Pong(payload.to_vec()));
                self.spend();
            }
            _ => self.spend(),
        }
    }

    fn spend(&mut self) {
        if let Err(error) = self.allowance.spend(Instant::now()) {
            self.fail(error);
        }
    }

    fn fail(&mut self, error: DecodeError) {
        self.end = Some(End::Broken(error));
        self.owed = Some(Owed::Fail(error.close_code()));
    }
}

fn limit(remaining: u64, room: usize) -> usize {
    usize::try_from(remaining).unwrap_or(usize::MAX).min(room)
}
