//! One side of a splice: reading and decoding what its peer sends, framing and writing what it is sent.
mod read;
mod write;

use std::io;

use bytes::BytesMut;
use proto::ws::{
    Role,
    flood::Allowance,
    frame::{Decoder, Opcode},
    keys::Keys,
};
use tokio::io::{AsyncRead, AsyncWrite};

pub(super) use self::read::READ_MAX;
use super::{
    buffers::{Buffers, Lease},
    outbox::Outbox,
};
use crate::transport::ReadsAhead;

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
    /// Pays for `input` and for what becomes of it, while anything is on its way.
    lease: Option<Lease>,
    /// Size of the read that `input` was made for.
    room: usize,
    /// Size of the next one, if the budget allows.
    wanted: usize,
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

impl<IO: AsyncRead + AsyncWrite + ReadsAhead + Unpin> Leg<IO> {
    /// `read_ahead` holds bytes that came behind the handshake.
    pub fn new(mut io: IO, framing: Framing, read_ahead: BytesMut, buffers: Buffers) -> Self {
        // One read of the other side, and the headers that it gets here, leave in one write.
        io.take_at_once(2 * READ_MAX);
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
            room: 0,
            wanted: read::READ_MIN,
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
}
