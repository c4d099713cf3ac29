//! The reading half: frames to whole messages, and the judgement whether the peer is alive.
use std::{
    fmt,
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf},
    time::{Instant, timeout_at},
};

use super::{ChannelError, Message, Role, outbox::Owners};
use crate::ws::{
    flood::Allowance,
    frame::{Decoder, Event, Opcode, close_reason},
};

/// Bytes read at once, on the stack: an idle channel holds no buffer.
const READ: usize = 2048;

/// The reading half. Pings are answered through the writing half's queue.
pub struct Receiver<IO> {
    io: ReadHalf<IO>,
    owners: Arc<Owners>,
    decoder: Decoder,
    input: BytesMut,
    gathered: BytesMut,
    kind: Kind,
    limit: usize,
    ping: Duration,
    heard: Instant,
    pinged: bool,
    allowance: Allowance,
    ended: bool,
}

/// The message being gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    text: bool,
    /// The current frame is the message's last.
    fin: bool,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Receiver<IO> {
    pub(super) fn new(
        io: ReadHalf<IO>,
        owners: Arc<Owners>,
        role: Role,
        input: BytesMut,
        limit: usize,
        ping: Duration,
    ) -> Self {
        Self {
            io,
            owners,
            decoder: Decoder::new(role),
            input,
            gathered: BytesMut::new(),
            kind: Kind { text: false, fin: false },
            limit,
            ping,
            heard: Instant::now(),
            pinged: false,
            allowance: Allowance::default(),
            ended: false,
        }
    }

    /// The next whole text, binary or Close message. Cancel-safe. The peer's Close is echoed by itself; after it, and
    /// after an error, there is only [`ChannelError::Ended`]. A peer at fault is told so in a Close frame.
    pub async fn next(&mut self) -> Result<Message, ChannelError> {
        if self.ended {
            return Err(ChannelError::Ended);
        }
        let outcome = self.gather().await;
        match &outcome {
            Ok(Message::Close(close)) => {
                self.owners.close(close.as_ref().map(|(code, _)| (*code, String::new())), true)
            }
            Ok(_) => return outcome,
            Err(error) => {
                if let Some(close) = blame(error) {
                    self.owners.close(Some(close), false);
                }
            }
        }
        self.ended = true;
        outcome
    }

    async fn gather(&mut self) -> Result<Message, ChannelError> {
        loop {
            if let Some(message) = self.decode()? {
                return Ok(message);
            }
            self.read().await?;
        }
    }

    /// Waits for bytes, within what silence allows.
    async fn read(&mut self) -> Result<(), ChannelError> {
        loop {
            let silence = if self.pinged { 2 * self.ping } else { self.ping };
            match timeout_at(self.heard + silence, self.read_some()).await {
                Ok(Ok(0)) => {
                    let error = io::Error::new(io::ErrorKind::UnexpectedEof, "connection ended without a Close frame");
                    return Err(error.into());
                }
                Ok(read) => {
                    read?;
                    (self.heard, self.pinged) = (Instant::now(), false);
                    return Ok(());
                }
                Err(_) if self.pinged => return Err(ChannelError::Silent(silence)),
                Err(_) => {
                    self.pinged = true;
                    self.owners.ping();
                }
            }
        }
    }

    /// One read, appended to what waits to be decoded.
    async fn read_some(&mut self) -> io::Result<usize> {
        poll_fn(|cx| {
            let mut bytes = [0; READ];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
            self.input.extend_from_slice(read.filled());
            Poll::Ready(Ok(read.filled().len()))
        })
        .await
    }

    /// Decodes until a message is whole or the bytes are used up.
    fn decode(&mut self) -> Result<Option<Message>, ChannelError> {
        while let Some(event) = self.decoder.next(&mut self.input)? {
            match event {
                Event::Start(header) => {
                    if header.len > (self.limit - self.gathered.len()) as u64 {
                        return Err(ChannelError::TooLarge { limit: self.limit });
                    }
                    if header.len == 0 {
                        self.allowance.spend(Instant::now())?;
                    }
                    let text = header.opcode == Opcode::Text || header.opcode == Opcode::Continuation && self.kind.text;
                    self.kind = Kind { text, fin: header.fin };
                }
                Event::Payload { bytes, end } => {
                    if !bytes.is_empty() {
                        self.allowance.earn();
                    }
                    self.gathered.extend_from_slice(&bytes);
                    if end && self.kind.fin {
                        return self.whole().map(Some);
                    }
                }
                Event::Control { opcode: Opcode::Close, payload } => {
                    let close = close_reason(&payload).map(|(code, reason)| (code, reason.to_owned()));
                    return Ok(Some(Message::Close(close)));
                }
                Event::Control { opcode, payload } => {
                    self.allowance.spend(Instant::now())?;
                    if opcode == Opcode::Ping {
                        self.owners.pong(&payload);
                    }
                }
            }
        }
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        Ok(None)
    }

    fn whole(&mut self) -> Result<Message, ChannelError> {
        let bytes = Bytes::from(std::mem::take(&mut self.gathered));
        if !self.kind.text {
            return Ok(Message::Binary(bytes));
        }
        String::from_utf8(bytes.into()).map(Message::Text).map_err(|_| ChannelError::NotText)
    }
}

/// What to tell a peer at fault.
fn blame(error: &ChannelError) -> Option<(u16, String)> {
    let code = match error {
        ChannelError::Frame(error) => error.close_code(),
        ChannelError::TooLarge { .. } => 1009,
        ChannelError::NotText => 1007,
        ChannelError::Silent(_) => 1001,
        ChannelError::Io(_) | ChannelError::Ended => return None,
    };
    let reason = match error {
        ChannelError::Frame(rule) => rule.to_string(),
        other => other.to_string(),
    };
    Some((code, reason))
}

impl<IO> fmt::Debug for Receiver<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver")
            .field("waiting", &self.input.len())
            .field("gathered", &self.gathered.len())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
