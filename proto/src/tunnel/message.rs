//! gRPC message framing around `Bytes`, without I/O.
//!
//! On the wire a message is `flag (1 byte, 0) | length (4 bytes, big endian) | protobuf`. The `data` field of both
//! directions of `Forward` is number 2, so a message that is nothing but data reads `0x12 | varint(n) | n bytes`: the
//! canonical shape. Sending, those few bytes are an inline prefix in front of the payload, which is never copied
//! (`Chunk`). Receiving, the payload of a canonical message is handed on piece by piece as it arrives; any other
//! message, data in another shape included, is gathered up to a limit and left to prost ([`Decoder`]).
//!
//! A message that is compressed, too large or cut short is an error; nothing here can panic on what a peer sends.

use std::{fmt, io::IoSlice};

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;

use super::{
    failure::{Code, Failure},
    hold::Weight,
};
use crate::limits::{DATA_SENT_MAX, DATA_TAKEN_MAX, MESSAGE_GATHERED_MAX};

/// Flag and length.
const FRAMING: usize = 5;
/// Tag of field 2, wire type 2 (`data`).
const DATA_TAG: u8 = 0x12;
/// Tag and a varint of at most five bytes, which hold 35 bits.
const DATA_HEAD_MAX: usize = 6;
/// Flag, length, tag and varint, rounded up.
const PREFIX_MAX: usize = 16;
/// First allocation for a message that arrives in pieces: its announced length is only a claim yet.
const GATHER_START: usize = 4096;

/// One DATA frame's worth of bytes: a short inline prefix, then a payload that nobody copies.
pub(crate) struct Chunk {
    prefix: [u8; PREFIX_MAX],
    at: usize,
    end: usize,
    payload: Bytes,
    /// Counts it as held until HTTP/2 is done with it.
    _weight: Option<Weight>,
}

impl Chunk {
    /// A `data` message of the canonical shape. The payload is at most [`DATA_SENT_MAX`].
    pub(crate) fn data(payload: Bytes) -> Self {
        debug_assert!(payload.len() <= DATA_SENT_MAX);
        let mut chunk = Self::bare(payload);
        let mut end = FRAMING;
        chunk.prefix[end] = DATA_TAG;
        end += 1;
        let mut length = chunk.payload.len();
        while length >= 0x80 {
            chunk.prefix[end] = length as u8 | 0x80;
            length >>= 7;
            end += 1;
        }
        chunk.prefix[end] = length as u8;
        end += 1;
        chunk.frame(end);
        chunk
    }

    /// Any other message. Fails if it is larger than a peer would take.
    pub(crate) fn message(message: &impl Message) -> Result<Self, Failure> {
        let length = message.encoded_len();
        if length > MESSAGE_GATHERED_MAX {
            let text = format!("a message of {length} bytes exceeds the limit of {MESSAGE_GATHERED_MAX}");
            return Err(Failure::before_target(Code::InvalidRequest, text));
        }
        let mut chunk = Self::bare(message.encode_to_vec().into());
        chunk.frame(FRAMING);
        Ok(chunk)
    }

    /// Bytes that already are what they shall be on the wire.
    pub(crate) fn bare(payload: Bytes) -> Self {
        Self { prefix: [0; PREFIX_MAX], at: 0, end: 0, payload, _weight: None }
    }

    /// Counts as held with this.
    pub(super) fn weighing(self, weight: Option<Weight>) -> Self {
        Self { _weight: weight, ..self }
    }

    /// Writes flag and length in front, `end` being where the prefix ends.
    fn frame(&mut self, end: usize) {
        let length = end - FRAMING + self.payload.len();
        self.prefix[1..FRAMING].copy_from_slice(&(length as u32).to_be_bytes());
        self.end = end;
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.end - self.at + self.payload.len()
    }

    fn chunk(&self) -> &[u8] {
        if self.at < self.end { &self.prefix[self.at..self.end] } else { &self.payload }
    }

    fn advance(&mut self, count: usize) {
        let inline = count.min(self.end - self.at);
        self.at += inline;
        self.payload.advance(count - inline);
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let parts = [&self.prefix[self.at..self.end], &self.payload];
        let mut used = 0;
        for (slice, part) in slices.iter_mut().zip(parts.into_iter().filter(|part| !part.is_empty())) {
            *slice = IoSlice::new(part);
            used += 1;
        }
        used
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk").field("remaining", &self.remaining()).finish()
    }
}

/// What the decoder hands on.
#[derive(PartialEq, Eq)]
pub enum Piece {
    /// Some payload of a canonical `data` message; never empty.
    Data(Bytes),
    /// A whole message of any other shape, still encoded.
    Message(Bytes),
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(bytes) => f.debug_tuple("Data").field(&bytes.len()).finish(),
            Self::Message(bytes) => f.debug_tuple("Message").field(&bytes.len()).finish(),
        }
    }
}

/// Why bytes are not messages of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The flag says compressed, which nobody agreed to.
    #[error("a compressed message, and no compression was agreed")]
    Compressed,
    /// The flag is neither 0 nor 1.
    #[error("a message flag of {0}")]
    Flag(u8),
    /// The announced length exceeds what is streamed or gathered.
    #[error("a message of {length} bytes, more than the limit of {limit}")]
    Oversize {
        /// Bytes announced.
        length: usize,
        /// Bytes taken at most.
        limit: usize,
    },
    /// The stream ended inside a message.
    #[error("a message cut short by the end of the stream")]
    Truncated,
    /// prost could not decode it.
    #[error("a message that is not protobuf of this contract: {0}")]
    Malformed(#[from] prost::DecodeError),
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Self {
        let code = match error {
            DecodeError::Compressed => Code::Unsupported,
            DecodeError::Oversize { .. } => Code::LimitReached,
            DecodeError::Flag(_) | DecodeError::Truncated | DecodeError::Malformed(_) => Code::ProtocolError,
        };
        Self::perhaps(code, format!("the peer sent {error}"))
    }
}

/// Cuts the bytes of one direction into pieces. Feed it with [`push`](Self::push), then drain it with
/// [`next`](Self::next) until it gives `None`.
#[derive(Debug)]
pub struct Decoder {
    input: Bytes,
    state: State,
    streams_data: bool,
    overhead: usize,
}

#[derive(Debug)]
enum State {
    /// Reading flag and length.
    Framing { have: [u8; FRAMING], len: usize },
    /// Reading the first bytes of a message of `length`, to see its shape.
    Head { length: usize, have: [u8; DATA_HEAD_MAX], len: usize },
    /// Handing on payload.
    Data { left: usize },
    /// Collecting a message of `length`.
    Gather { length: usize, gathered: BytesMut },
}

impl State {
    const START: Self = Self::Framing { have: [0; FRAMING], len: 0 };
}

impl Decoder {
    /// For a direction of `Forward`: canonical data is streamed.
    pub fn streaming() -> Self {
        Self { input: Bytes::new(), state: State::START, streams_data: true, overhead: 0 }
    }

    /// For any other call: every message is gathered.
    pub fn gathering() -> Self {
        Self { streams_data: false, ..Self::streaming() }
    }

    /// Takes the next bytes; what was pushed before must have been drained.
    pub fn push(&mut self, input: Bytes) {
        debug_assert!(self.input.is_empty());
        self.input = input;
    }

    /// Whether the stream may end here: every message is complete.
    pub fn at_boundary(&self) -> bool {
        self.input.is_empty() && matches!(self.state, State::Framing { len: 0, .. })
    }

    /// Bytes consumed since the last call that were not handed on as data: framing and gathered messages.
    pub fn take_overhead(&mut self) -> usize {
        std::mem::take(&mut self.overhead)
    }

    /// The next piece; `None` when more input is needed. After an error nothing more comes of this decoder.
    ///
    /// # Errors
    /// See [`DecodeError`]; never `Truncated` or `Malformed`, which are for whoever knows the end and the type.
    #[expect(clippy::should_implement_trait, reason = "not an iterator: `None` asks for more input")]
    pub fn next(&mut self) -> Result<Option<Piece>, DecodeError> {
        loop {
            match &mut self.state {
                State::Framing { have, len } => {
                    self.overhead += fill(&mut self.input, have, len);
                    if *len < FRAMING {
                        return Ok(None);
                    }
                    let length = framed_length(*have)?;
                    if length == 0 {
                        self.state = State::START;
                        return Ok(Some(Piece::Message(Bytes::new())));
                    }
                    self.state = if self.streams_data {
                        State::Head { length, have: [0; DATA_HEAD_MAX], len: 0 }
                    } else {
                        gather(length, &[])?
                    };
                }
                State::Head { length, len: 0, .. } if self.input.len() >= *length => {
                    // The usual case: the whole message is here, and no byte of it moves.
                    let length = *length;
                    match Shape::of(&self.input[..length.min(DATA_HEAD_MAX)], length) {
                        Shape::Data { head } => {
                            self.overhead += head;
                            self.input.advance(head);
                            self.state = data(length - head)?;
                        }
                        Shape::Other | Shape::Unclear => {
                            within(length, MESSAGE_GATHERED_MAX)?;
                            self.overhead += length;
                            self.state = State::START;
                            return Ok(Some(Piece::Message(self.input.split_to(length))));
                        }
                    }
                }
                State::Head { length, have, len } => {
                    let length = *length;
                    loop {
                        match Shape::of(&have[..*len], length) {
                            Shape::Data { head } => {
                                self.state = data(length - head)?;
                                break;
                            }
                            Shape::Other => {
                                self.state = gather(length, &have[..*len])?;
                                break;
                            }
                            Shape::Unclear => {
                                let Some(&byte) = self.input.first() else { return Ok(None) };
                                self.input.advance(1);
                                self.overhead += 1;
                                have[*len] = byte;
                                *len += 1;
                            }
                        }
                    }
                }
                State::Data { left: 0 } => self.state = State::START,
                State::Data { left } => {
                    if self.input.is_empty() {
                        return Ok(None);
                    }
                    let piece = self.input.split_to(self.input.len().min(*left));
                    *left -= piece.len();
                    return Ok(Some(Piece::Data(piece)));
                }
                State::Gather { length, gathered } => {
                    let piece = self.input.split_to(self.input.len().min(*length - gathered.len()));
                    self.overhead += piece.len();
                    gathered.extend_from_slice(&piece);
                    if gathered.len() < *length {
                        return Ok(None);
                    }
                    let message = std::mem::take(gathered).freeze();
                    self.state = State::START;
                    return Ok(Some(Piece::Message(message)));
                }
            }
        }
    }
}

/// What the first bytes of a message say about it.
enum Shape {
    /// Nothing but data, after `head` bytes of tag and length.
    Data { head: usize },
    /// Anything else.
    Other,
    /// More bytes are needed to tell.
    Unclear,
}

impl Shape {
    fn of(start: &[u8], length: usize) -> Self {
        let Some((&tag, rest)) = start.split_first() else { return Self::Unclear };
        if tag != DATA_TAG {
            return Self::Other;
        }
        let mut announced = 0u64;
        for (at, &byte) in rest.iter().enumerate() {
            announced |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                let head = at + 2;
                let whole = announced + head as u64 == length as u64;
                return if whole { Self::Data { head } } else { Self::Other };
            }
        }
        if start.len() == DATA_HEAD_MAX || start.len() >= length { Self::Other } else { Self::Unclear }
    }
}

fn framed_length(framing: [u8; FRAMING]) -> Result<usize, DecodeError> {
    let [flag, length @ ..] = framing;
    match flag {
        0 => within(u32::from_be_bytes(length) as usize, DATA_TAKEN_MAX + DATA_HEAD_MAX),
        1 => Err(DecodeError::Compressed),
        other => Err(DecodeError::Flag(other)),
    }
}

fn data(left: usize) -> Result<State, DecodeError> {
    within(left, DATA_TAKEN_MAX).map(|left| State::Data { left })
}

fn gather(length: usize, start: &[u8]) -> Result<State, DecodeError> {
    within(length, MESSAGE_GATHERED_MAX)?;
    let mut gathered = BytesMut::with_capacity(length.min(GATHER_START));
    gathered.extend_from_slice(start);
    Ok(State::Gather { length, gathered })
}

fn within(length: usize, limit: usize) -> Result<usize, DecodeError> {
    if length > limit { Err(DecodeError::Oversize { length, limit }) } else { Ok(length) }
}

/// Moves bytes from `input` to the free end of `have`; says how many.
fn fill(input: &mut Bytes, have: &mut [u8], len: &mut usize) -> usize {
    let count = input.len().min(have.len() - *len);
    have[*len..*len + count].copy_from_slice(&input[..count]);
    input.advance(count);
    *len += count;
    count
}

#[cfg(test)]
mod tests;
