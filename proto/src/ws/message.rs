//! Whole, small messages over a WebSocket: what a control channel speaks. Bounded by construction.
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Role;

/// One whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// UTF-8 text.
    Text(String),
    /// Bytes.
    Binary(Bytes),
    /// The peer closes; no code means the Close frame was empty.
    Close(Option<(u16, String)>),
}

/// Why a message channel ended.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The transport broke.
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
}

/// The reading half. Pings are answered through the writing half's queue.
#[derive(Debug)]
pub struct Receiver<IO> {
    _io: std::marker::PhantomData<IO>,
}

/// The writing half; cheap to clone; `send` waits for room.
#[derive(Debug, Clone)]
pub struct Sender {}

/// Splits a WebSocket into message halves. The returned future writes; its owner drives it until it ends.
///
/// `limit` bounds each received message in bytes; `ping` is sent after that much silence, and twice that without any
/// frame ends the channel with `Silent`.
pub fn split<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    io: IO,
    role: Role,
    read_ahead: BytesMut,
    limit: usize,
    ping: Duration,
) -> (Sender, Receiver<IO>, impl Future<Output = ()> + Send + use<IO>) {
    let _ = (io, role, read_ahead, limit, ping);
    if true {
        todo!()
    }
    (Sender {}, Receiver { _io: std::marker::PhantomData }, std::future::ready(()))
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Receiver<IO> {
    /// The next whole text, binary or Close message. Cancel-safe.
    pub async fn next(&mut self) -> Result<Message, ChannelError> {
        todo!()
    }
}

impl Sender {
    /// Queues one message; several messages given together stay adjacent. Fails when the channel has ended.
    pub async fn send(&self, messages: Vec<Message>) -> Result<(), ChannelError> {
        let _ = messages;
        todo!()
    }
}
