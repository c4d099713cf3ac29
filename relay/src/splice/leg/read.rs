//! From the peer: bytes read in large pieces, decoded where they lie, and queued for the other side.
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, BytesMut};
use proto::ws::frame::{HEADER_MAX, Opcode, Step, close_payload};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tokio_util::io::poll_read_buf;

use super::{super::Broke, Framing, Leg};

/// Read buffer of a busy connection: one full frame of ours, four TLS records, and what a socket gives at once.
const BUSY_READ: usize = 64 * 1024;

/// Read buffer of a connection that was quiet: most requests and answers fit, and ten thousand of them cost little.
const QUIET_READ: usize = 4 * 1024;

/// What may wait undecoded in front of a pause: one header and one control frame.
const RESIDUE_MAX: usize = HEADER_MAX + 125;

impl<IO: AsyncRead + AsyncWrite + Unpin> Leg<IO> {
    /// Reads what there is, up to one buffer; ready when there is something to forward, the end included.
    pub(in crate::splice) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.fresh) {
            return Poll::Ready(Ok(()));
        }
        let mut got = 0;
        while self.transport_end.is_none() {
            if got == 0 {
                self.make_room();
            } else if self.input.capacity() == self.input.len() {
                break;
            }
            match poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input) {
                Poll::Ready(Ok(0)) => self.transport_end = Some(Ok(())),
                Poll::Ready(Ok(read)) => got += read,
                Poll::Ready(Err(error)) => self.transport_end = Some(Err(error)),
                Poll::Pending if got > 0 => break,
                Poll::Pending => {
                    self.release();
                    return Poll::Pending;
                }
            }
        }
        self.busy = got >= QUIET_READ;
        if got == 0 && matches!(self.transport_end, Some(Err(_))) {
            let error = self.transport_end.replace(Ok(()));
            return Poll::Ready(error.unwrap_or(Ok(())));
        }
        Poll::Ready(Ok(()))
    }

    /// Room for a whole read: where the last payload has left the buffer, it is used again from its front.
    fn make_room(&mut self) {
        if self.busy && self.lease.is_none() {
            self.lease = self.buffers.lease(BUSY_READ);
        }
        self.input.reserve(if self.lease.is_some() { BUSY_READ } else { QUIET_READ });
    }

    /// Nothing to read: an idle connection holds no buffer, but for the front of a frame's header.
    fn release(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
            self.lease = None;
        } else if self.input.len() <= RESIDUE_MAX && self.input.capacity() > RESIDUE_MAX {
            self.input = BytesMut::from(&self.input[..]);
            self.lease = None;
        }
    }

    /// Decodes everything that was read and queues it for the other side. True when this direction has ended.
    pub(in crate::splice) fn forward<T>(&mut self, to: &mut Leg<T>, bytes: &mut u64) -> Result<bool, Broke>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        match self.framing {
            Framing::Raw { .. } => self.forward_raw(to, bytes),
            Framing::WebSocket(_) => self.forward_frames(to, bytes),
        }
    }

    fn forward_raw<T>(&mut self, to: &mut Leg<T>, bytes: &mut u64) -> Result<bool, Broke>
    where
        T: AsyncRead + AsyncWrite + Unpin,
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
        T: AsyncRead + AsyncWrite + Unpin,
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
                    let payload = self.input.split_to(used);
                    if used > 0 {
                        self.allowance.earn();
                    }
                    *bytes += used as u64;
                    let opcode = std::mem::replace(&mut self.piece, Opcode::Continuation);
                    to.put(opcode, message, last, payload).map_err(Broke::To)?;
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
