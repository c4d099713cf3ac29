//! One side of a splice: reading and decoding what its peer sends, framing and writing what it is sent.
use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use proto::ws::{
    Role,
    flood::Allowance,
    frame::{DecodeError, Decoder, HEADER_MAX, Header, Opcode, Step, close_payload, close_reason, put_control},
    keys::Keys,
    mask,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tokio_util::io::{poll_read_buf, poll_write_buf};

use super::{
    Broke,
    outbox::{Buffers, Lease, Outbox},
};

/// Read buffer of a busy connection: one full frame of ours, four TLS records, and what a socket gives at once.
const BUSY_READ: usize = 64 * 1024;

/// Read buffer of a connection that was quiet: most requests and answers fit, and ten thousand of them cost little.
const QUIET_READ: usize = 4 * 1024;

/// What may wait undecoded in front of a pause: one header and one control frame.
const RESIDUE_MAX: usize = HEADER_MAX + 125;

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// WebSocket, in this role of ours.
    WebSocket(Role),
    /// Plain bytes: each payload is written as it is, and each read becomes one binary message.
    Raw {
        /// Text messages are notices between our own parties, not data.
        skip_text: bool,
    },
}

/// One connection and the state of both its directions.
#[derive(Debug)]
pub struct Leg<IO> {
    io: IO,
    framing: Framing,
    buffers: Buffers,

    decoder: Decoder,
    input: BytesMut,
    /// There are bytes in `input` that were never decoded.
    fresh: bool,
    lease: Option<Lease>,
    busy: bool,
    /// The transport has ended, or failed behind bytes that still count.
    transport_end: Option<io::Result<()>>,
    /// Opcode for the next piece of the current frame.
    piece: Opcode,
    allowance: Allowance,
    /// The peer has closed its direction.
    ended: bool,

    output: Outbox,
    keys: Keys,
    unflushed: bool,
    pong: Option<Vec<u8>>,
    notice: Option<String>,
    /// A message was begun and not finished towards the peer.
    mid_message: bool,
    /// We have closed our direction.
    closed: bool,
    shut_down: bool,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Leg<IO> {
    /// `read_ahead` holds bytes that came behind the handshake.
    pub fn new(io: IO, framing: Framing, read_ahead: BytesMut, buffers: Buffers) -> Self {
        let role = match framing {
            Framing::WebSocket(role) => role,
            Framing::Raw { .. } => Role::Server,
        };
        Self {
            io,
            framing,
            buffers,
            decoder: Decoder::new(role),
            fresh: !read_ahead.is_empty(),
            input: read_ahead,
            lease: None,
            busy: false,
            transport_end: None,
            piece: Opcode::Binary,
            allowance: Allowance::default(),
            ended: false,
            output: Outbox::default(),
            keys: Keys::default(),
            unflushed: false,
            pong: None,
            notice: None,
            mid_message: false,
            closed: false,
            shut_down: false,
        }
    }

    /// The transport.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    /// Bytes of memory held for reading.
    #[cfg(test)]
    pub(super) fn read_memory(&self) -> usize {
        self.input.capacity()
    }

    /// Whether the peer has closed its direction.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether something of our own waits to be said.
    pub(super) fn owes(&self) -> bool {
        !self.closed && (self.pong.is_some() || self.notice.is_some() && !self.mid_message)
    }

    /// Has a text message said, at the next place between two messages.
    pub(super) fn notify(&mut self, text: String) {
        self.notice = Some(text);
    }

    /// Reads what there is, up to one buffer; ready when there is something to forward, the end included.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
    pub(super) fn forward<T>(&mut self, to: &mut Leg<T>, bytes: &mut u64) -> Result<bool, Broke>
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
        self.allowance.spend(Instant::now()).map_err(|error: DecodeError| Broke::Frame(error))
    }

    /// Queues one piece of a message.
    fn put(&mut self, opcode: Opcode, message: Opcode, fin: bool, mut payload: BytesMut) -> io::Result<()> {
        match self.framing {
            Framing::Raw { skip_text } => {
                if !(skip_text && message == Opcode::Text) {
                    self.output.push(&[], payload);
                }
            }
            Framing::WebSocket(_) => {
                let key = self.key()?;
                if let Some(key) = key {
                    mask::apply(key, 0, &mut payload);
                }
                let mut header = [0; HEADER_MAX];
                let len = Header { fin, opcode, mask: key, len: payload.len() as u64 }.encode(&mut header);
                self.output.push(&header[..len], payload);
                self.mid_message = !fin;
            }
        }
        Ok(())
    }

    /// Ends our direction as the other side's peer ended its own.
    fn end_like(&mut self, payload: &[u8]) -> Result<(), Broke> {
        match (self.framing, close_reason(payload)) {
            (Framing::Raw { .. }, Some((code, _))) if code != 1000 => Err(Broke::Code(code)),
            _ => self.put_close(payload).map_err(Broke::To),
        }
    }

    fn put_close(&mut self, payload: &[u8]) -> io::Result<()> {
        if self.closed {
            return Ok(());
        }
        if let Framing::WebSocket(_) = self.framing {
            let key = self.key()?;
            put_control(self.output.tail(), Opcode::Close, payload, key);
        }
        self.closed = true;
        Ok(())
    }

    /// Queues a Close of our own, where there is such a thing.
    pub(super) fn close(&mut self, code: u16, reason: &str) {
        if let Framing::WebSocket(_) = self.framing {
            // Without random numbers there is no Close, and the peer sees an abrupt end.
            let _ = self.put_close(&close_payload(code, reason));
        }
    }

    fn key(&mut self) -> io::Result<Option<[u8; 4]>> {
        match self.framing {
            Framing::WebSocket(Role::Client) => self.keys.draw().map(Some),
            Framing::WebSocket(Role::Server) | Framing::Raw { .. } => Ok(None),
        }
    }

    /// Writes and flushes everything that is queued or owed; ready when nothing is left.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.output.has_remaining() && !self.queue_own()? {
                break;
            }
            let written = ready!(poll_write_buf(Pin::new(&mut self.io), cx, &mut self.output))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
            self.output.settle();
        }
        if self.closed && !self.shut_down && matches!(self.framing, Framing::Raw { .. }) {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            self.shut_down = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Moves what we owe into the empty output; false when that is nothing.
    fn queue_own(&mut self) -> io::Result<bool> {
        if !self.owes() {
            return Ok(false);
        }
        if let Some(payload) = self.pong.take() {
            let key = self.key()?;
            put_control(self.output.tail(), Opcode::Pong, &payload, key);
        } else if let Some(text) = self.notice.take() {
            self.put(Opcode::Text, Opcode::Text, true, BytesMut::from(text.as_bytes()))?;
        }
        Ok(true)
    }

    /// Sends the rest and ends the transport in order.
    pub(super) async fn finish(&mut self) {
        if poll_fn(|cx| self.poll_send(cx)).await.is_ok() && self.closed && !self.shut_down {
            // The peer may have ended first; then there is nothing left to end.
            let _ = poll_fn(|cx| Pin::new(&mut self.io).poll_shutdown(cx)).await;
        }
    }
}
