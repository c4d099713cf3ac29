//! The streaming decoder: a header parser, the grammar between frames, and the key's phase within one.

use bytes::{Buf, BytesMut};

use super::{CONTROL_MAX, DecodeError, Event, Header, Opcode};
use crate::ws::{Role, mask};

/// Streaming decoder of one direction. After an error or a Close it must not be used further; what follows a Close is
/// dropped (section 1.4).
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    frame_max: u64,
    /// Type of the message that is open: begun and not yet final.
    message: Option<Opcode>,
    /// The data frame whose payload is being read.
    frame: Option<Frame>,
    closed: bool,
}

/// Where we are in one data frame.
#[derive(Debug, Clone, Copy)]
struct Frame {
    fin: bool,
    key: [u8; 4],
    done: u64,
    left: u64,
}

/// One step over a slice; see [`Decoder::step`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A data frame's header; the payload follows.
    Start(Header),
    /// Payload, unmasked where it lies.
    Payload {
        /// Text or Binary: what the message is, whatever the opcode of this frame.
        message: Opcode,
        /// This completes the frame.
        end: bool,
        /// This completes the message.
        last: bool,
    },
    /// A whole control frame; its payload, unmasked where it lies, begins at `at`.
    Control {
        /// Which.
        opcode: Opcode,
        /// Length of the header in front.
        at: usize,
    },
}

impl Decoder {
    /// `role` is ours: a server expects masked frames. Frames may have any length that RFC 6455 allows.
    pub fn new(role: Role) -> Self {
        Self { role, frame_max: u64::MAX, message: None, frame: None, closed: false }
    }

    /// Refuses data frames of more than `bytes`, for users who gather them.
    #[must_use]
    pub fn frame_limit(mut self, bytes: u64) -> Self {
        self.frame_max = bytes;
        self
    }

    /// Bytes of the current data frame still to come.
    pub fn remaining(&self) -> u64 {
        self.frame.map_or(0, |frame| frame.left)
    }

    /// Nothing is half received: the next byte begins a message. Between messages a relay may add its own.
    pub fn between_messages(&self) -> bool {
        self.message.is_none() && self.frame.is_none()
    }

    /// Takes what it can from the front of `input`. `None` means more bytes are needed.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Event>, DecodeError> {
        if self.closed {
            input.clear();
        }
        let Some((step, used)) = self.step(input)? else { return Ok(None) };
        let mut bytes = input.split_to(used);
        Ok(Some(match step {
            Step::Start(header) => Event::Start(header),
            Step::Payload { end, .. } => Event::Payload { bytes, end },
            Step::Control { opcode, at } => {
                bytes.advance(at);
                Event::Control { opcode, payload: bytes }
            }
        }))
    }

    /// The same over a slice, for callers who decode where the bytes lie: what the front of `bytes` is, and how many
    /// bytes belong to it. `None` means more bytes are needed behind these; they are left as they were.
    pub fn step(&mut self, bytes: &mut [u8]) -> Result<Option<(Step, usize)>, DecodeError> {
        if self.closed {
            return Ok(None);
        }
        if self.frame.is_some() {
            return Ok(self.payload(bytes));
        }
        let Some((header, at)) = self.header(bytes)? else { return Ok(None) };
        if header.opcode.is_control() {
            return self.control(header, at, bytes);
        }
        self.message = self.message.or(Some(header.opcode));
        let key = header.mask.unwrap_or_default();
        self.frame = Some(Frame { fin: header.fin, key, done: 0, left: header.len });
        Ok(Some((Step::Start(header), at)))
    }

    fn payload(&mut self, bytes: &mut [u8]) -> Option<(Step, usize)> {
        let (message, frame) = (self.message?, self.frame.as_mut()?);
        if bytes.is_empty() && frame.left > 0 {
            return None;
        }
        let used = usize::try_from(frame.left).unwrap_or(usize::MAX).min(bytes.len());
        mask::apply(frame.key, frame.done, &mut bytes[..used]);
        frame.done += used as u64;
        frame.left -= used as u64;
        let end = frame.left == 0;
        let last = end && frame.fin;
        if end {
            self.frame = None;
        }
        if last {
            self.message = None;
        }
        Some((Step::Payload { message, end, last }, used))
    }

    fn control(&mut self, header: Header, at: usize, bytes: &mut [u8]) -> Result<Option<(Step, usize)>, DecodeError> {
        let end = at + header.len as usize;
        let Some(payload) = bytes.get_mut(at..end) else { return Ok(None) };
        mask::apply(header.mask.unwrap_or_default(), 0, payload);
        if header.opcode == Opcode::Close {
            check_close(payload)?;
            self.closed = true;
        }
        Ok(Some((Step::Control { opcode: header.opcode, at }, end)))
    }

    /// Parses and judges the header at the front, each rule as soon as the bytes it needs are there.
    fn header(&self, bytes: &[u8]) -> Result<Option<(Header, usize)>, DecodeError> {
        let &[first, second, ..] = bytes else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(DecodeError::ReservedBits);
        }
        let opcode = Opcode::from_code(first & 0x0f)?;
        let fin = first & 0x80 != 0;
        let masked = second & 0x80 != 0;
        match (self.role, masked) {
            (Role::Server, false) => return Err(DecodeError::Unmasked),
            (Role::Client, true) => return Err(DecodeError::Masked),
            _ => {}
        }
        let short = second & 0x7f;
        if opcode.is_control() {
            if !fin {
                return Err(DecodeError::FragmentedControl);
            }
            if usize::from(short) > CONTROL_MAX {
                return Err(DecodeError::LongControl);
            }
        } else {
            match (opcode, self.message) {
                (Opcode::Continuation, None) => return Err(DecodeError::StrayContinuation),
                (Opcode::Text | Opcode::Binary, Some(_)) => return Err(DecodeError::InterleavedMessage),
                _ => {}
            }
        }
        let Some((len, at)) = length(short, &bytes[2..])? else { return Ok(None) };
        if !opcode.is_control() && len > self.frame_max {
            return Err(DecodeError::FrameTooLarge { limit: self.frame_max });
        }
        if !masked {
            return Ok(Some((Header { fin, opcode, mask: None, len }, at)));
        }
        let Some(key) = bytes[at..].first_chunk::<4>() else { return Ok(None) };
        Ok(Some((Header { fin, opcode, mask: Some(*key), len }, at + 4)))
    }
}

/// The payload length and where the header goes on behind it.
fn length(short: u8, rest: &[u8]) -> Result<Option<(u64, usize)>, DecodeError> {
    match short {
        126 => {
            let Some(bytes) = rest.first_chunk() else { return Ok(None) };
            let len = u64::from(u16::from_be_bytes(*bytes));
            if len < 126 { Err(DecodeError::LongLength) } else { Ok(Some((len, 4))) }
        }
        127 => {
            let Some(bytes) = rest.first_chunk() else { return Ok(None) };
            match u64::from_be_bytes(*bytes) {
                len if len >> 63 != 0 => Err(DecodeError::LengthTooLarge),
                len if len <= 0xffff => Err(DecodeError::LongLength),
                len => Ok(Some((len, 10))),
            }
        }
        len => Ok(Some((u64::from(len), 2))),
    }
}

/// Judges a Close frame's payload (sections 5.5.1 and 7.4; codes above 1003 as registered with IANA).
fn check_close(payload: &[u8]) -> Result<(), DecodeError> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(()) } else { Err(DecodeError::CloseLength) };
    };
    match u16::from_be_bytes(*code) {
        1000..=1003 | 1007..=1014 | 3000..=4999 => {}
        code => return Err(DecodeError::CloseCode(code)),
    }
    std::str::from_utf8(reason).map(drop).map_err(|_| DecodeError::CloseReason)
}
