//! A control channel while it lives: what comes is obeyed, its token renewed, and its end is in order.
//!
//! Retiring, when the process drains or a successor is up: a relay that understands it is asked for nothing new, and says
//! when that is so; from any other, requests that still come are answered by rendezvous, which outlives the channel. When
//! what is pending is answered, Close is sent. What the relay had said before it read that is obeyed, too, so nobody who
//! was sent here is let down.
use std::{
    future::pending,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use proto::{
    hybrid::{
        message::{self, BODY_MAX, Drain, RenewToken},
        status::clean,
    },
    ws::{
        Role,
        message::{ChannelError, Message, Receiver, Sender, split},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep_until},
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tracing::{debug, info, warn};

use super::{
    board::Listed,
    open::{Features, Open},
    renewal::{Due, Renewal},
};
use crate::{
    farewell::Farewell,
    listen::{Held, explained, http, knock},
    sender::{DialError, Minted},
};

/// Silence after which the relay is pinged; twice that without a frame and the channel is dead.
const PING: Duration = Duration::from_secs(25);

/// Largest message from a relay: a request body.
const MESSAGE_MAX: usize = BODY_MAX;

/// How long a retiring channel waits for its requests: relays give up on them after as long.
const RETIRE: Duration = Duration::from_secs(60);

/// How long the relay may take to answer our Close.
const CLOSING: Duration = Duration::from_secs(3);

/// Longest reason of a relay that a log line shows.
const REASON_SHOWN: usize = 123;

/// What requests need of the channel that they came on.
#[derive(Debug)]
pub(in crate::listen) struct Wire {
    pub(in crate::listen) channel: Sender,
    /// Where the relay is.
    pub(in crate::listen) relay: Option<IpAddr>,
    pub(in crate::listen) features: Features,
    /// Cancelled when the channel is no more.
    pub(in crate::listen) gone: CancellationToken,
    /// Requests that are to be answered on the channel, and senders that are to be let in.
    pending: TaskTracker,
    /// New requests are to be answered elsewhere.
    elsewhere: AtomicBool,
    /// Our Close is given to be sent.
    closing: AtomicBool,
}

impl Wire {
    /// Holds the channel open for one more answer; nothing when that must go elsewhere.
    pub(in crate::listen) fn hold_open(&self) -> Option<TaskTrackerToken> {
        let elsewhere = self.elsewhere.load(Ordering::Relaxed) || self.closing.load(Ordering::Relaxed);
        (!elsewhere).then(|| self.pending.token())
    }
}

/// How a channel ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    pub(super) lived: Duration,
    /// It was told to.
    pub(super) retired: bool,
    /// The relay no longer believes its token.
    pub(super) token_refused: bool,
}

/// Lives as long as the channel does.
pub(super) async fn hold<IO>(held: Arc<Held>, open: Open<IO>, retire: CancellationToken) -> Ended
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let began = Instant::now();
    let Open { io, read_ahead, token, id, relay, features } = open;
    let (channel, mut receiver, writer) = split(io, Role::Client, read_ahead, MESSAGE_MAX, PING);
    let wire = Arc::new(Wire {
        channel: channel.clone(),
        relay,
        features,
        gone: CancellationToken::new(),
        pending: TaskTracker::new(),
        elsewhere: AtomicBool::new(false),
        closing: AtomicBool::new(false),
    });
    let gone = wire.gone.clone().drop_guard();
    let mut holding = Holding {
        listed: held.channels.list(&id, held.shared.context.clock.now(), token.expires),
        renewal: Renewal::new(&held, &token),
        minting: None,
        phase: Phase::Open,
        expected: Expected::Nothing,
        wire: wire.clone(),
        held: held.clone(),
    };
    held.shared.metrics.active_channels.inc();
    held.shared.metrics.channels.inc();
    held.ready.up();
    info!(relay = %held.address, listener = id, "control channel up");
    tokio::pin!(writer);
    let mut written = false;
    let end = {
        let serving = holding.serve(&mut receiver, &retire);
        tokio::pin!(serving);
        loop {
            tokio::select! {
                biased;
                end = &mut serving => break end,
                () = &mut writer, if !written => {
                    written = true;
                    // Behind our own Close the writer has nothing left to do.
                    if !wire.closing.load(Ordering::Relaxed) {
                        break End::new("lost", "the connection takes nothing more");
                    }
                }
            }
        }
    };
    let token_refused = end.name == "token_refused";
    let by_relay = matches!(end.name, "closed_by_relay" | "lost" | "silent");
    if token_refused || by_relay && holding.renewal.is_refuted() {
        let renewed = if holding.renewal.is_owed() { "the renewed token" } else { "the token" };
        warn!(relay = %held.address, listener = id, detail = end.detail, "the relay does not believe {renewed}");
        held.shared.metrics.renewed("refused");
    }
    drop(holding);
    drop(gone);
    held.shared.metrics.active_channels.dec();
    held.shared.metrics.channel_ended(end.name);
    info!(relay = %held.address, listener = id, reason = end.name, detail = end.detail, "control channel down");
    if !written {
        end.farewell.say(channel, &mut receiver, writer).await;
    }
    Ended { lived: began.elapsed(), retired: retire.is_cancelled(), token_refused }
}

/// Why a channel ends, and what is left to say.
struct End {
    name: &'static str,
    detail: String,
    farewell: Farewell,
}

impl End {
    fn new(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, detail: detail.into(), farewell: Farewell::Nothing }
    }

    fn blaming(reason: &'static str) -> Self {
        Self { farewell: Farewell::Close(1002, reason.to_owned()), ..Self::new("protocol_error", reason) }
    }
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Open,
    /// Until its requests are answered, or until then. `settled` when nothing new comes, or what comes does not count.
    Retiring {
        until: Instant,
        settled: bool,
    },
    /// Until the relay's Close, or until then.
    Closing(Instant),
}

/// What the next message has to be.
enum Expected {
    Nothing,
    /// The body of this request: relays send it right behind.
    Body(Box<message::Request>),
    /// Perhaps the body of something that could not be read.
    Unknown,
}

struct Holding {
    held: Arc<Held>,
    wire: Arc<Wire>,
    listed: Listed,
    renewal: Renewal,
    /// A fresh token is waited for. A source of tokens may be slow; senders and pings do not wait for it.
    minting: Option<Minting>,
    phase: Phase,
    expected: Expected,
}

type Minting = Pin<Box<dyn Future<Output = Result<Minted, DialError>> + Send>>;

fn mint(held: Arc<Held>) -> Minting {
    Box::pin(async move { held.credential.mint(&held.address).await })
}

/// What is minted, when it is. Cancel-safe.
async fn minted(minting: &mut Option<Minting>) -> Result<Minted, DialError> {
    let Some(running) = minting else { return pending().await };
    let minted = running.await;
    *minting = None;
    minted
}

impl Holding {
    /// Until the channel should end; says why.
    async fn serve<IO>(&mut self, receiver: &mut Receiver<IO>, retire: &CancellationToken) -> End
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let shutdown = self.held.shared.context.shutdown.clone();
        let (draining, force) = (shutdown.drain_token(), shutdown.force_token());
        loop {
            let until = match self.phase {
                Phase::Open => None,
                Phase::Retiring { until, .. } | Phase::Closing(until) => Some(until),
            };
            let (is_open, is_closing) = (until.is_none(), self.is_closing());
            let is_settled = matches!(self.phase, Phase::Retiring { settled: true, .. });
            tokio::select! {
                biased;
                () = force.cancelled() => return End::new("forced", ""),
                () = draining.cancelled(), if is_open => self.retire().await,
                () = retire.cancelled(), if is_open => self.retire().await,
                () = self.wire.pending.wait(), if is_settled => self.close().await,
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                    if is_closing {
                        return End::new("retired", "the relay did not answer our Close");
                    }
                    self.close().await;
                }
                due = self.renewal.due(), if !is_closing => match due {
                    Due::Renew => self.minting = Some(mint(self.held.clone())),
                    Due::Proven => {
                        self.held.shared.metrics.renewed("proven");
                        debug!(relay = %self.held.address, "the renewed token is believed");
                    }
                },
                minted = minted(&mut self.minting), if !is_closing => self.renew(minted).await,
                message = receiver.next() => {
                    if let Err(end) = self.take(message).await {
                        return end;
                    }
                }
            }
        }
    }

    /// One message of the relay's.
    async fn take(&mut self, message: Result<Message, ChannelError>) -> Result<(), End> {
        let expected = std::mem::replace(&mut self.expected, Expected::Nothing);
        match (message, expected) {
            (Ok(Message::Binary(body)), Expected::Body(request)) => {
                self.request(*request, Some(body)).await;
            }
            // Some listeners are sent an empty message that nothing announced.
            (Ok(Message::Binary(body)), expected) => {
                if !body.is_empty() && !matches!(expected, Expected::Unknown) {
                    return Err(End::blaming("a binary message that nothing announced"));
                }
            }
            (Ok(Message::Text(_)), Expected::Body(_)) => {
                return Err(End::blaming("a text message where the body of a request was announced"));
            }
            (Ok(Message::Text(text)), _) => match message::Message::read(&text) {
                Ok(message) => self.obey(message).await,
                // What we cannot read cannot be obeyed; the channel itself is sound.
                Err(error) => {
                    warn!(relay = %self.held.address, %error, "relay sent an unreadable message");
                    self.expected = Expected::Unknown;
                }
            },
            (Ok(Message::Close(_)), _) if self.is_closing() => return Err(End::new("retired", "")),
            (Ok(Message::Close(close)), _) => {
                let (code, reason) = close.unwrap_or((1005, String::new()));
                let name = if code == 1008 { "token_refused" } else { "closed_by_relay" };
                let detail = format!("{code} {}", clean(&reason, REASON_SHOWN));
                return Err(End { farewell: Farewell::Queued, ..End::new(name, detail) });
            }
            (Err(_), _) if self.is_closing() => return Err(End::new("retired", "")),
            (Err(error), _) => {
                let name = match error {
                    ChannelError::Io(_) | ChannelError::Ended => "lost",
                    ChannelError::Silent(_) => "silent",
                    ChannelError::Frame(_) | ChannelError::TooLarge { .. } | ChannelError::NotText => "protocol_error",
                };
                return Err(End { farewell: Farewell::after(&error), ..End::new(name, explained(&error)) });
            }
        }
        Ok(())
    }

    async fn obey(&mut self, message: message::Message) {
        match message {
            message::Message::Accept(accept) => knock::arrived(&self.held, &self.wire, accept),
            message::Message::Request(request) if request.is_address_only() => {
                http::announced(&self.held, &self.wire, request);
            }
            message::Message::Request(request) if request.body == Some(true) => {
                self.expected = Expected::Body(Box::new(request));
            }
            message::Message::Request(request) => self.request(request, None).await,
            message::Message::Drain(_) => {
                if let Phase::Retiring { settled, .. } = &mut self.phase {
                    *settled = true;
                }
            }
            // For relays, not for us, or from a protocol that is newer.
            message::Message::Response(_) | message::Message::RenewToken(_) | message::Message::Unknown => {}
        }
    }

    /// A whole request. One that is turned away is answered before anything else is read, so a relay that sends too many
    /// is slowed down.
    async fn request(&mut self, request: message::Request, body: Option<bytes::Bytes>) {
        if let Some(response) = http::arrived(&self.held, &self.wire, request, body) {
            self.say(message::Message::Response(response)).await;
        }
    }

    /// Sends a fresh token, if one could be had.
    async fn renew(&mut self, minted: Result<Minted, DialError>) {
        let fresh = match minted {
            Ok(fresh) => fresh,
            Err(error) => {
                let relay = &self.held.address;
                warn!(%relay, error = explained(&error), "token of a control channel cannot be renewed");
                self.held.shared.metrics.renewed("failed");
                return self.renewal.failed();
            }
        };
        self.say(message::Message::RenewToken(RenewToken { token: fresh.secret.expose().to_owned() })).await;
        self.held.shared.metrics.renewed("sent");
        self.renewal.sent(&self.held, &fresh);
        self.listed.renewed(fresh.expires);
    }

    /// Takes nothing new where the relay can be told, and waits for what is pending.
    async fn retire(&mut self) {
        let is_understood = self.wire.features.drain;
        self.phase = Phase::Retiring { until: Instant::now() + RETIRE, settled: !is_understood };
        self.listed.retiring();
        self.wire.pending.close();
        self.wire.elsewhere.store(!is_understood, Ordering::Relaxed);
        if is_understood {
            self.say(message::Message::Drain(Drain { within_ms: RETIRE.as_millis() as u64 })).await;
        }
    }

    /// Closes our direction; the relay's goes on until it has read that.
    async fn close(&mut self) {
        self.phase = Phase::Closing(Instant::now() + CLOSING);
        self.wire.closing.store(true, Ordering::Relaxed);
        // A channel that has ended is noticed by its reader.
        let _ = self.wire.channel.send(vec![Message::Close(Some((1000, "closed by the listener".to_owned())))]).await;
    }

    async fn say(&mut self, message: message::Message) {
        // None of ours is ever too long. A channel that has ended is noticed by its reader.
        if let Ok(text) = message.write() {
            let _ = self.wire.channel.send(vec![Message::Text(text)]).await;
        }
    }

    fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing(_))
    }
}
