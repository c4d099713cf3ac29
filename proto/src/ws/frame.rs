//! The frame codec: bytes in, events out, no I/O and no clock. Payload is handed on in pieces as it arrives and never
//! gathered, so a frame may announce any length without costing memory; only control frames (125 bytes) are kept until
//! complete.
//!
//! The decoder enforces RFC 6455 section 5 to the letter and stops at the first broken rule with the close code to
//! answer. It does not look into text: relayed and tunnelled text passes as bytes, whose ends check it. The message API
//! ([`super::message`]) does check, because there text is read.

use bytes::{BufMut, BytesMut};

mod decode;
mod error;
#[cfg(test)]
mod tests;

pub use decode::{Decoder, Step};
pub use error::DecodeError;

use super::mask;

/// Longest header: two bytes, eight of length, four of key.
pub const HEADER_MAX: usize = 14;

/// Longest payload of a control frame (section 5.5).
pub const CONTROL_MAX: usize = 125;

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

impl Opcode {
    /// Close, Ping or Pong.
    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    fn code(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }

    fn from_code(code: u8) -> Result<Self, DecodeError> {
        Ok(match code {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            other => return Err(DecodeError::UnknownOpcode(other)),
        })
    }
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
    pub fn encode(&self, out: &mut [u8; HEADER_MAX]) -> usize {
        out[0] = u8::from(self.fin) << 7 | self.opcode.code();
        let masked = u8::from(self.mask.is_some()) << 7;
        let mut at = match self.len {
            len @ 0..=125 => {
                out[1] = masked | len as u8;
                2
            }
            len @ 126..=0xffff => {
                out[1] = masked | 126;
                out[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                4
            }
            len => {
                out[1] = masked | 127;
                out[2..10].copy_from_slice(&len.to_be_bytes());
                10
            }
        };
        if let Some(key) = self.mask {
            out[at..at + 4].copy_from_slice(&key);
            at += 4;
        }
        at
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

/// Appends one whole control frame. `payload` beyond [`CONTROL_MAX`] bytes is cut off; `key` is given exactly by clients.
pub fn put_control(out: &mut impl BufMut, opcode: Opcode, payload: &[u8], key: Option<[u8; 4]>) {
    debug_assert!(opcode.is_control());
    let payload = &payload[..payload.len().min(CONTROL_MAX)];
    let mut header = [0; HEADER_MAX];
    let len = Header { fin: true, opcode, mask: key, len: payload.len() as u64 }.encode(&mut header);
    out.put_slice(&header[..len]);
    let mut body = [0; CONTROL_MAX];
    let body = &mut body[..payload.len()];
    mask::copy(key.unwrap_or_default(), 0, payload, body);
    out.put_slice(body);
}

/// The payload of a Close frame: `code` and as much of `reason` as fits, cut between characters (section 5.5.1).
pub fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    let reason = &reason[..reason.floor_char_boundary(CONTROL_MAX - 2)];
    [&code.to_be_bytes(), reason.as_bytes()].concat()
}

/// Code and reason of a decoded Close frame; `None` when the peer gave no code.
pub fn close_reason(payload: &[u8]) -> Option<(u16, &str)> {
    let (code, reason) = payload.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*code), std::str::from_utf8(reason).unwrap_or_default()))
}
