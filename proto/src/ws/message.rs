//! Whole, small messages over a WebSocket: what a control channel speaks. Bounded by construction: a received message by
//! the caller's limit, what waits to be sent by [`BATCHES_WAITING`], answers to pings by keeping only the latest. A binary
//! message of any length can be sent and received in pieces instead, each on its way as soon as it is there.
//!
//! The two halves share an outbox and nothing else, so a reader that is busy never stops a writer. Liveness is judged by
//! what arrives: silence draws a Ping, twice the silence ends the channel. A peer that stops taking what we send ends
//! the writing future after the same time.
use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Role;

mod outbox;
mod receive;
mod send;
#[cfg(test)]
mod tests;

use outbox::Owners;
pub use receive::Receiver;
pub use send::Sender;

/// Batches that wait for the writer before `send` waits for room: a burst of events passes at once, and a peer that
/// does not read is noticed by its sender before much memory is spent on it.
pub const BATCHES_WAITING: usize = 16;

/// One whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// UTF-8 text.
    Text(String),
    /// Bytes.
    Binary(Bytes),
    /// The peer closes; no code means the Close frame was empty. Sent, it ends our direction: nothing follows it.
    Close(Option<(u16, String)>),
}

/// A part of a binary message that is sent as it comes to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The bytes; none are a frame, too.
    pub bytes: Bytes,
    /// It begins the message.
    pub first: bool,
    /// It ends the message.
    pub last: bool,
}

/// What arrives when binary messages are taken in pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A whole text message, or the peer's Close.
    Whole(Message),
    /// Bytes of a binary message, as they came.
    Bytes {
        /// The bytes; none if the message ends with an empty frame.
        bytes: Bytes,
        /// They end the message.
        last: bool,
    },
}

/// Why a message channel ended.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The transport broke, or ended without a Close.
    #[error("connection lost")]
    Io(#[from] std::io::Error),
    /// The peer broke the protocol.
    #[error("peer broke the WebSocket protocol")]
    Frame(#[from] super::frame::DecodeError),
    /// A message is larger than this channel takes.
    #[error("message of more than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// A text message is not UTF-8.
    #[error("text message is not UTF-8")]
    NotText,
    /// Nothing arrived for too long, pings included.
    #[error("no sign of life for {0:?}")]
    Silent(Duration),
    /// The channel has ended before; the first error said why.
    #[error("channel has ended")]
    Ended,
}

/// Splits a WebSocket into message halves. The returned future writes; its owner drives it until it ends: when our Close
/// is written, when the transport takes nothing for twice `ping`, or when both halves are gone and all is written.
///
/// `limit` bounds each received message in bytes; `ping` is sent after that much silence, and twice that without any
/// frame ends the channel with `Silent`. `read_ahead` holds bytes that came behind the handshake.
pub fn split<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    io: IO,
    role: Role,
    read_ahead: BytesMut,
    limit: usize,
    ping: Duration,
) -> (Sender, Receiver<IO>, impl Future<Output = ()> + Send + use<IO>) {
    let (reading, writing) = tokio::io::split(io);
    let owners = Arc::new(Owners::default());
    let writer = send::write(writing, owners.outbox(), role, 2 * ping);
    (Sender::new(owners.clone()), Receiver::new(reading, owners, role, read_ahead, limit, ping), writer)
}
