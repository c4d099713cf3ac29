//! The frame codec: bytes in, events out, no I/O. Payload is handed on in pieces as it arrives.
use bytes::BytesMut;

use super::Role;

/// Frame types (RFC 6455 section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// Continues a fragmented message.
    Continuation,
    /// UTF-8 text.
    Text,
    /// Bytes.
    Binary,
    /// Ends one direction.
    Close,
    /// Asks for a Pong.
    Ping,
    /// Answers a Ping, or says "alive".
    Pong,
}

/// One frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Last frame of its message.
    pub fin: bool,
    /// Frame type.
    pub opcode: Opcode,
    /// Masking key; present exactly on frames from a client.
    pub mask: Option<[u8; 4]>,
    /// Payload length in bytes.
    pub len: u64,
}

impl Header {
    /// Writes the header in its shortest form and returns how many bytes of `out` it took.
    pub fn encode(&self, out: &mut [u8; 14]) -> usize {
        let _ = out;
        todo!()
    }
}

/// What the decoder saw.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A data frame (text, binary, continuation) begins; its payload follows as `Payload`.
    Start(Header),
    /// Unmasked bytes of the current data frame; `end` on the last piece. An empty frame gives one empty last piece.
    Payload {
        /// The bytes, unmasked in place.
        bytes: BytesMut,
        /// This completes the frame.
        end: bool,
    },
    /// A whole control frame (Close, Ping, Pong), at most 125 bytes, unmasked.
    Control {
        /// Which.
        opcode: Opcode,
        /// Its payload.
        payload: BytesMut,
    },
}

/// What a peer did wrong. Each maps to close code 1002, or 1009 where a length is too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A client must mask, a server must not (section 5.1).
    #[error("frame from a client is not masked")]
    Unmasked,
}

/// Streaming decoder of one direction.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
}

impl Decoder {
    /// `role` is ours: a server expects masked frames.
    pub fn new(role: Role) -> Self {
        Self { role }
    }

    /// Takes what it can from the front of `input`. `None` means more bytes are needed.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Event>, DecodeError> {
        let _ = (self.role, input);
        todo!()
    }
}
