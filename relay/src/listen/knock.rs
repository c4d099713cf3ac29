//! A WebSocket sender that waits at a relay to be let in, and what becomes of it.
use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use proto::{
    hybrid::{
        address::Target,
        message::{Accept, Endpoint, Headers},
        status::clean,
    },
    tunnel::SUBPROTOCOL,
    ws::{Role, stream::WsStream},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, timeout_at},
};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{info, warn};

use super::{
    Held,
    channel::Wire,
    explained,
    permit::Destination,
    rendezvous::{self, RendezvousError},
    share::Place,
};
use crate::sender::Transport;

/// For everything up to the accepted connection: after 30 s no relay remembers the rendezvous (SD-8).
pub(super) const SETUP: Duration = Duration::from_secs(30);

/// What senders are told where nobody handles WebSockets.
const NO_WEBSOCKET: (u16, &str) = (501, "This listener answers HTTP requests only");

/// Longest text of a relay's in a log line.
const SHOWN: usize = 128;

/// A WebSocket sender that waits to be let in: accept or reject it, within 30 s. Dropped, it learns nothing but the
/// relay's timeout. Everything it says comes from the sender or the relay and proves nothing.
pub struct Knock {
    held: Arc<Held>,
    accept: Accept,
    destination: Destination,
    relay: Option<IpAddr>,
    deadline: Instant,
    line: Line,
    /// Until it is accepted or rejected: its place among the dials, and its channel, whose end would have the relay ask
    /// another listener.
    _until_answered: (Place, Option<TaskTrackerToken>),
}

/// A sender that was let in.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub(super) io: Transport,
    /// What came behind the handshake.
    pub(super) read_ahead: BytesMut,
    /// Our subprotocol was chosen, in which text messages are notices.
    pub(super) noticed: bool,
    pub(super) line: Line,
}

/// A sender's connection as a byte stream: text and binary messages alike, boundaries dropped; its end is a Close. One
/// with a code other than 1000 reads as an error, [`proto::ws::stream::CutShort`]: the sender, or a relay that ends, may
/// not have said everything.
#[derive(Debug)]
pub struct Rendezvous {
    stream: WsStream<Transport>,
    line: Line,
}

/// A relay says that a sender is waiting.
pub(super) fn arrived(held: &Arc<Held>, wire: &Wire, accept: Accept) {
    let shared = &held.shared;
    let crowded = |limit| {
        shared.metrics.ended("crowded");
        warn!(relay = %held.address, limit, "rendezvous dropped");
    };
    let Some(waiting) = held.dials_waiting.try_take() else { return crowded("limits.dials_waiting") };
    let Some(joined) = held.joined.try_take() else { return crowded("limits.joined") };
    let line = Line::begin(held, &accept, joined);
    let waiting = Waiting { place: waiting, channel: wire.hold_open() };
    shared.context.shutdown.spawn(serve(held.clone(), accept, wire.relay, waiting, line));
}

/// What a knock holds until it is handled.
struct Waiting {
    place: Place,
    channel: Option<TaskTrackerToken>,
}

async fn serve(held: Arc<Held>, accept: Accept, relay: Option<IpAddr>, waiting: Waiting, mut line: Line) {
    let Waiting { place, channel } = waiting;
    let deadline = Instant::now() + SETUP;
    let destination = match held.permit.check(&accept.address) {
        Ok(destination) => destination,
        Err(refused) => return line.failed(&refused.into()),
    };
    let force = held.shared.context.shutdown.force_token();
    let turn = tokio::select! {
        biased;
        () = force.cancelled() => return line.end("forced", "listener", String::new()),
        turn = timeout_at(deadline, held.dials.take()) => turn,
    };
    let Ok(dialling) = turn else { return line.failed(&RendezvousError::TooSlow) };
    drop(place);
    let on_websocket = held.on_websocket.clone();
    let knock = Knock { held, accept, destination, relay, deadline, line, _until_answered: (dialling, channel) };
    match on_websocket {
        Some(handler) => handler(knock).await,
        // The line says what became of it.
        None => drop(knock.reject(NO_WEBSOCKET.0, NO_WEBSOCKET.1).await),
    }
}

impl Knock {
    /// The sender's tracing id, fit for a log line.
    pub fn id(&self) -> &str {
        &self.line.id
    }

    /// Where the sender came from, as the relay says. What a relay says may not earn the privileges of this machine:
    /// loopback is nobody, as is nothing said.
    pub fn remote(&self) -> Option<SocketAddr> {
        outside(self.accept.remote_endpoint)
    }

    /// Head of the sender's handshake.
    pub fn headers(&self) -> &Headers {
        &self.accept.connect_headers
    }

    /// Path and query that the sender asked for: with the name of the hybrid connection in front, without anything of the
    /// relay's.
    pub fn target(&self) -> String {
        match Target::parse(&self.destination.target) {
            Ok(target) => match target.query() {
                Some(query) => format!("/{}?{query}", target.path()),
                None => format!("/{}", target.path()),
            },
            Err(_) => format!("/{}", self.destination.address.path),
        }
    }

    /// The subprotocols that the sender offers, in its order.
    pub fn protocols(&self) -> impl Iterator<Item = &str> {
        let offered = self.accept.connect_headers.find("Sec-WebSocket-Protocol").unwrap_or_default();
        offered.split(',').map(str::trim).filter(|name| !name.is_empty())
    }

    /// The line that tells what became of it.
    pub(super) fn line(&mut self) -> &mut Line {
        &mut self.line
    }

    /// Lets the sender in. `protocol` is one of those that it offers; browsers fail when they offered some and none is
    /// chosen.
    pub async fn accept(self, protocol: Option<&str>) -> Result<Accepted, RendezvousError> {
        let Self { held, destination, relay, deadline, mut line, _until_answered, .. } = self;
        let protocols: Vec<&str> = protocol.into_iter().collect();
        let opened = timeout_at(deadline, rendezvous::open(&held, &destination, relay, &protocols)).await;
        match opened.unwrap_or(Err(RendezvousError::TooSlow)) {
            Ok(upgraded) => {
                line.end("accepted", "none", String::new());
                let noticed = protocol == Some(SUBPROTOCOL);
                Ok(Accepted { io: upgraded.io, read_ahead: upgraded.read_ahead, noticed, line })
            }
            Err(error) => {
                line.failed(&error);
                Err(error)
            }
        }
    }

    /// Turns the sender away: it gets this status, 400 to 599, and the description as reason phrase.
    pub async fn reject(mut self, status: u16, description: &str) -> Result<(), RendezvousError> {
        self.line.end("rejected", "listener", format!("{status} {}", clean(description, SHOWN)));
        self.rejected(status, description).await
    }

    /// The same, where the line says already why.
    pub(super) async fn rejected(self, status: u16, description: &str) -> Result<(), RendezvousError> {
        let Self { held, destination, relay, deadline, mut line, _until_answered, .. } = self;
        let rejected = timeout_at(deadline, rendezvous::reject(&held, &destination, relay, status, description)).await;
        let rejected = rejected.unwrap_or(Err(RendezvousError::TooSlow));
        if let Err(error) = &rejected {
            line.failed(error);
        }
        rejected
    }
}

impl Accepted {
    /// As a byte stream.
    pub fn into_stream(self) -> Rendezvous {
        let Self { io, read_ahead, noticed, line } = self;
        let stream = WsStream::new(io, Role::Client, read_ahead).whole_or_error();
        Rendezvous { stream: if noticed { stream } else { stream.with_text() }, line }
    }
}

impl AsyncRead for Rendezvous {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, line } = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(stream).poll_read(cx, buf);
        line.bytes_up += (buf.filled().len() - before) as u64;
        read
    }
}

impl AsyncWrite for Rendezvous {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, line } = self.get_mut();
        let written = Pin::new(stream).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(written)) = written {
            line.bytes_down += written as u64;
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// Where a sender came from, if the relay may say so.
pub(super) fn outside(endpoint: Option<Endpoint>) -> Option<SocketAddr> {
    endpoint
        .map(|endpoint| SocketAddr::new(endpoint.address.to_canonical(), endpoint.port))
        .filter(|remote| !remote.ip().is_loopback())
}

impl fmt::Debug for Knock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Knock").field("id", &self.line.id).finish_non_exhaustive()
    }
}

/// What one rendezvous came to, and its place among the joined. Writes its line on drop.
#[derive(Debug)]
pub(super) struct Line {
    held: Arc<Held>,
    began: Instant,
    id: String,
    remote: String,
    pub(super) target: String,
    outcome: &'static str,
    fault: &'static str,
    detail: String,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
    _joined: Place,
}

impl Line {
    fn begin(held: &Arc<Held>, accept: &Accept, joined: Place) -> Self {
        Self {
            held: held.clone(),
            began: Instant::now(),
            id: clean(&accept.id, SHOWN),
            remote: accept.remote_endpoint.map(|from| format!("{}:{}", from.address, from.port)).unwrap_or_default(),
            target: String::new(),
            outcome: "abandoned",
            fault: "unknown",
            detail: String::new(),
            bytes_up: 0,
            bytes_down: 0,
            _joined: joined,
        }
    }

    /// How it ended. `outcome` and `fault` come from closed sets of names.
    pub(super) fn end(&mut self, outcome: &'static str, fault: &'static str, detail: String) {
        (self.outcome, self.fault, self.detail) = (outcome, fault, detail);
    }

    fn failed(&mut self, error: &RendezvousError) {
        self.end(error.name(), error.fault(), explained(error));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.held.shared.metrics.ended(self.outcome);
        info!(
            target: "access",
            kind = "rendezvous",
            id = self.id,
            relay = %self.held.address,
            remote = self.remote,
            target = self.target,
            outcome = self.outcome,
            fault = self.fault,
            detail = self.detail,
            bytes_up = self.bytes_up,
            bytes_down = self.bytes_down,
            duration_ms = self.began.elapsed().as_millis() as u64,
            "rendezvous ended"
        );
    }
}
