//! From the peer: bytes read in large pieces, decoded where they lie, and queued for the other side.
//!
//! A read is as large as the reads before it and the shared budget suggest. What it brings is paid for by one lease until
//! it has left on the other side; a direction with nothing on its way holds neither lease nor buffer.
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, BufMut as _, BytesMut};
use proto::ws::frame::{CONTROL_MAX, HEADER_MAX, Opcode, Step, close_payload};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tokio_util::io::poll_read_buf;

use super::{super::Broke, Framing, Leg};
use crate::{splice::outbox::COPIED_MAX, transport::ReadsAhead};

/// Largest read: beyond it, fewer system calls and wake-ups of the peers save little.
pub(in crate::splice) const READ_MAX: usize = 128 * 1024;

/// Read of a connection that was quiet, and the least that every connection has: most requests and answers fit, and ten
/// thousand of them cost little.
pub(super) const READ_MIN: usize = 4 * 1024;

/// The next read after a full one is so many times larger.
const GROWTH: usize = 4;

/// How often the bytes of one read may lie in memory: as they came from the socket, decrypted, and encrypted again.
const COPIES: usize = 3;

/// What a read leaves free: bytes that arrive in the middle of a frame leave with a header of their own, which should not
/// become a TLS record of its own behind full ones.
const HEADROOM: usize = 64;

/// What may wait undecoded in front of a pause: one header and one control frame.
const RESIDUE_MAX: usize = HEADER_MAX + CONTROL_MAX;

impl<IO: AsyncRead + AsyncWrite + ReadsAhead + Unpin> Leg<IO> {
    /// Reads what there is, up to one buffer; ready when there is something to forward, the end included.
    pub(in crate::splice) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.fresh) {
            return Poll::Ready(Ok(()));
        }
        let mut got = 0;
        while self.transport_end.is_none() {
            if got == 0 {
                self.make_room();
            } else if got == self.room {
                break;
            }
            let mut input = (&mut self.input).limit(self.room - got);
            match poll_read_buf(Pin::new(&mut self.io), cx, &mut input) {
                Poll::Ready(Ok(0)) => self.transport_end = Some(Ok(())),
                Poll::Ready(Ok(read)) => got += read,
                Poll::Ready(Err(error)) => self.transport_end = Some(Err(error)),
                Poll::Pending if got > 0 => break,
                Poll::Pending => {
                    self.rest();
                    return Poll::Pending;
                }
            }
        }
        if got == self.room {
            self.wanted = (self.wanted * GROWTH).min(READ_MAX);
        } else if got < self.room / GROWTH {
            self.wanted = (self.wanted / GROWTH).max(READ_MIN);
        }
        if got == 0 && matches!(self.transport_end, Some(Err(_))) {
            let error = self.transport_end.replace(Ok(()));
            return Poll::Ready(error.unwrap_or(Ok(())));
        }
        Poll::Ready(Ok(()))
    }

    /// Makes room for one read. What was read before has left, so the lease is taken anew: under pressure it shrinks.
    fn make_room(&mut self) {
        // What lies below TLS came with an earlier lease, and stays until it is asked for.
        let held = self.io.held();
        self.lease = None;
        let lease = self.buffers.lease_between(COPIES * READ_MIN + held, COPIES * self.wanted + held);
        let size = ((lease.bytes() - held) / COPIES).min(READ_MAX);
        let room = size - HEADROOM;
        self.lease = Some(lease);
        self.io.read_ahead(if size > READ_MIN { size } else { 0 });
        if room == self.room {
            // The payload has left the buffer: it is used again from its front.
            self.input.reserve(room);
        } else {
            let mut input = BytesMut::with_capacity(room + RESIDUE_MAX);
            input.extend_from_slice(&self.input);
            (self.input, self.room) = (input, room);
        }
    }

    /// Nothing is on its way: no buffer is held, but for the front of a frame's header.
    pub(in crate::splice) fn rest(&mut self) {
        if self.lease.take().is_some() {
            self.io.read_ahead(0);
            self.input = BytesMut::from(&self.input[..]);
            self.room = 0;
        }
    }

    /// Decodes everything that was read and queues it for the other side. True when this direction has ended.
    pub(in crate::splice) fn forward<T>(&mut self, to: &mut Leg<T>, bytes: &mut u64) -> Result<bool, Broke>
    where
        T: AsyncRead + AsyncWrite + ReadsAhead + Unpin,
    {
        match self.framing {
            Framing::Raw { .. } => self.forward_raw(to, bytes),
            Framing::WebSocket(_) => self.forward_frames(to, bytes),
        }
    }

    fn forward_raw<T>(&mut self, to: &mut Leg<T>, bytes: &mut u64) -> Result<bool, Broke>
    where
        T: AsyncRead + AsyncWrite + ReadsAhead + Unpin,
    {
        if self.input.is_empty() {
            self.ended = true;
            to.put_close(&close_payload(1000, "")).map_err(Broke::To)?;
            return Ok(true);
        }
        let payload = self.input.split();
        *bytes += payload.len() as u64;
        to.put(Opcode::Binary, Opcode::Binary, true, payload).map_err(Broke::To)?;
        Ok(false)
    }

    fn forward_frames<T>(&mut self, to: &mut Leg<T>, bytes: &mut u64) -> Result<bool, Broke>
    where
        T: AsyncRead + AsyncWrite + ReadsAhead + Unpin,
    {
        while let Some((step, used)) = self.decoder.step(&mut self.input).map_err(Broke::Frame)? {
            match step {
                Step::Start(header) => {
                    self.input.advance(used);
                    self.piece = header.opcode;
                    if header.len == 0 {
                        self.spend()?;
                    }
                }
                Step::Payload { message, last, .. } => {
                    if used > 0 {
                        self.allowance.earn();
                    }
                    *bytes += used as u64;
                    let opcode = std::mem::replace(&mut self.piece, Opcode::Continuation);
                    if used < COPIED_MAX {
                        to.copy(opcode, message, last, &self.input[..used]).map_err(Broke::To)?;
                        self.input.advance(used);
                    } else {
                        to.put(opcode, message, last, self.input.split_to(used)).map_err(Broke::To)?;
                    }
                }
                Step::Control { opcode: Opcode::Close, at } => {
                    let payload = self.input.split_to(used);
                    self.ended = true;
                    return to.end_like(&payload[at..]).map(|()| true);
                }
                Step::Control { opcode, at } => {
                    let payload = self.input.split_to(used);
                    if opcode == Opcode::Ping {
                        // Only the latest is answered (RFC 6455 section 5.5.3): a flood of pings queues nothing.
                        self.pong = Some(payload[at..].to_vec());
                    }
                    self.spend()?;
                }
            }
        }
        if matches!(self.transport_end, Some(Ok(()))) {
            let error = io::Error::new(io::ErrorKind::UnexpectedEof, "connection ended without a Close frame");
            return Err(Broke::From(error));
        }
        Ok(false)
    }

    fn spend(&mut self) -> Result<(), Broke> {
        self.allowance.spend(Instant::now()).map_err(Broke::Frame)
    }
}
