//! The reading half: frames to whole messages, and the judgement whether the peer is alive.
use std::{
    fmt,
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf},
    time::{Instant, timeout_at},
};
use tokio_util::io::poll_read_buf;

use super::{ChannelError, Message, Part, Role, outbox::Owners};
use crate::ws::{
    flood::Allowance,
    frame::{Decoder, Event, Opcode, close_reason},
};

/// Bytes read at once, on the stack: an idle channel holds no buffer.
const READ: usize = 2048;

/// Bytes read at once while a binary message is taken in pieces: one TLS record.
const PIECE_READ: usize = 16 * 1024;

/// A shorter piece is copied out of what was read, because it would keep all of that in memory for as long as it waits:
/// whoever counts pieces by their bytes is wrong by four times at most.
pub(super) const PIECE_SHARED: usize = PIECE_READ / 4;

/// All connections of a process ping on multiples of this: ten thousand idle ones wake a thread ten times a second
/// instead of hundreds of times. Longer would make bursts that others notice.
const TICK: Duration = Duration::from_millis(100);

/// What multiples of [`TICK`] are counted from.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The reading half. Pings are answered through the writing half's queue.
pub struct Receiver<IO> {
    io: ReadHalf<IO>,
    owners: Arc<Owners>,
    decoder: Decoder,
    input: BytesMut,
    gathered: BytesMut,
    kind: Kind,
    /// A binary message is under way that is taken in pieces.
    large: bool,
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
            large: false,
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
        let outcome = self.gather(false).await.map(|part| match part {
            Part::Whole(message) => message,
            Part::Bytes { bytes, .. } => Message::Binary(bytes),
        });
        self.settle(outcome.as_ref());
        outcome
    }

    /// The same, with the bytes of binary messages as they arrive; no limit bounds such a message. Not to be mixed with
    /// [`Self::next`] within one message. Cancel-safe.
    pub async fn next_part(&mut self) -> Result<Part, ChannelError> {
        if self.ended {
            return Err(ChannelError::Ended);
        }
        let outcome = self.gather(true).await;
        match &outcome {
            Ok(Part::Whole(message)) => self.settle(Ok(message)),
            Ok(Part::Bytes { .. }) => {}
            Err(error) => self.settle(Err(error)),
        }
        outcome
    }

    /// Says what an end calls for.
    fn settle(&mut self, outcome: Result<&Message, &ChannelError>) {
        match outcome {
            Ok(Message::Close(close)) => {
                self.owners.close(close.as_ref().map(|(code, _)| (*code, String::new())), true)
            }
            Ok(_) => return,
            Err(error) => {
                if let Some(close) = blame(error) {
                    self.owners.close(Some(close), false);
                }
            }
        }
        self.ended = true;
    }

    async fn gather(&mut self, pieces: bool) -> Result<Part, ChannelError> {
        loop {
            if let Some(part) = self.decode(pieces)? {
                return Ok(part);
            }
            self.read().await?;
        }
    }

    /// Waits for bytes, within what silence allows.
    async fn read(&mut self) -> Result<(), ChannelError> {
        loop {
            let silence = if self.pinged { 2 * self.ping } else { self.ping };
            let until = self.heard + silence;
            let until = if self.pinged { until } else { on_tick(until) };
            match timeout_at(until, self.read_some()).await {
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
        if self.large {
            return self.read_large().await;
        }
        poll_fn(|cx| {
            let mut bytes = [0; READ];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
            self.input.extend_from_slice(read.filled());
            Poll::Ready(Ok(read.filled().len()))
        })
        .await
    }

    /// The same into the heap, while there is much to come.
    async fn read_large(&mut self) -> io::Result<usize> {
        self.input.reserve(PIECE_READ);
        poll_fn(|cx| poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input)).await
    }

    /// Decodes until a message is whole, or a piece is there, or the bytes are used up.
    fn decode(&mut self, pieces: bool) -> Result<Option<Part>, ChannelError> {
        while let Some(event) = self.decoder.next(&mut self.input)? {
            match event {
                Event::Start(header) => {
                    let text = header.opcode == Opcode::Text || header.opcode == Opcode::Continuation && self.kind.text;
                    self.kind = Kind { text, fin: header.fin };
                    self.large = pieces && !text && (!header.fin || header.len > READ as u64);
                    if (text || !pieces) && header.len > (self.limit - self.gathered.len()) as u64 {
                        return Err(ChannelError::TooLarge { limit: self.limit });
                    }
                    if header.len == 0 {
                        self.allowance.spend(Instant::now())?;
                    }
                }
                Event::Payload { bytes, end } => {
                    if !bytes.is_empty() {
                        self.allowance.earn();
                    }
                    let last = end && self.kind.fin;
                    self.large &= !last;
                    if pieces && !self.kind.text {
                        if last || !bytes.is_empty() {
                            return Ok(Some(Part::Bytes { bytes: piece(bytes), last }));
                        }
                        continue;
                    }
                    self.gathered.extend_from_slice(&bytes);
                    if last {
                        return self.whole().map(|message| Some(Part::Whole(message)));
                    }
                }
                Event::Control { opcode: Opcode::Close, payload } => {
                    let close = close_reason(&payload).map(|(code, reason)| (code, reason.to_owned()));
                    return Ok(Some(Part::Whole(Message::Close(close))));
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

/// Bytes of a message, in memory of a size like theirs.
fn piece(bytes: BytesMut) -> Bytes {
    if bytes.len() < PIECE_SHARED { Bytes::copy_from_slice(&bytes) } else { bytes.freeze() }
}

/// The next multiple of [`TICK`].
fn on_tick(at: Instant) -> Instant {
    let past = at.saturating_duration_since(*EPOCH).as_nanos() % TICK.as_nanos();
    if past == 0 { at } else { at + (TICK - Duration::from_nanos(past as u64)) }
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
