//! The caller's end of a tunnel.
//!
//! [`connect`] gives a [`Client`], which opens streams, and a future that drives the connection. Streams talk to
//! HTTP/2 directly, no task stands between. When the peer says GOAWAY or the connection ends, the client is closed:
//! it opens nothing more, and what it is asked to open fails as certainly not having reached the target.
use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::{
    Reason,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};

use super::{
    budget::Party,
    failure::{Code, Failure},
    hold::{Holder, Ledger},
    in_flight::{InFlight, Slot},
    inbound::Inbound,
    liveness::{Liveness, Observed},
    lost,
    message::{Chunk, DecodeError, Decoder, Piece},
    method, pb,
    receive::Receiver,
    send::Outbound,
    settings::{Settings, connection_window},
    status,
    window::{Meter, Pace},
};
use crate::limits::STREAMS_FOR_CONTROL;

/// Opens streams on one tunnel. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    /// Goes true, or its sender goes away, when no new stream can be opened.
    closed: watch::Receiver<bool>,
}

struct Shared {
    send: Mutex<SendRequest<Chunk>>,
    pace: Arc<Pace>,
    ledger: Arc<Ledger>,
    parties: Vec<Party>,
    in_flight: InFlight,
}

/// How a tunnel ended.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// HTTP/2 failed.
    #[error("tunnel connection failed")]
    Http2(#[from] h2::Error),
    /// The peer was silent for too long.
    #[error("no sign of life from the peer")]
    Dead,
}

/// Starts HTTP/2 as the client on a proven transport. The future drives the tunnel and ends with it: its owner spawns
/// and awaits it. Dropping every `Client` lets streams in flight finish and then ends it.
///
/// # Errors
/// If the preface cannot be written. The peer's answer is not awaited: what is wrong with it ends the driving future.
pub async fn connect<IO>(
    io: IO,
    settings: Settings,
) -> Result<(Client, impl Future<Output = Result<(), ConnectionError>> + Send + use<IO>), ConnectionError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let pace = Arc::new(Pace::new(settings.stream_window));
    let ledger = Ledger::new(settings.budget.clone(), pace.clone());
    let io = Observed::new(io, ledger.clone());
    let mut liveness = io.liveness(&settings, pace.clone());
    let (send, mut connection) = settings.client().handshake(io).await?;
    liveness.start(connection.ping_pong());
    let (closing, closed) = watch::channel(false);
    let in_flight = InFlight::default();
    let shared = Arc::new(Shared {
        send: Mutex::new(send),
        pace: pace.clone(),
        ledger: ledger.clone(),
        parties: settings.parties,
        in_flight: in_flight.clone(),
    });
    let driver = Driver { connection, liveness, pace, ledger, in_flight, client: Arc::downgrade(&shared), closing };
    Ok((Client { shared, closed }, driver))
}

struct Driver<IO> {
    connection: h2::client::Connection<Observed<IO>, Chunk>,
    liveness: Liveness,
    pace: Arc<Pace>,
    ledger: Arc<Ledger>,
    in_flight: InFlight,
    client: Weak<Shared>,
    closing: watch::Sender<bool>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Future for Driver<IO> {
    type Output = Result<(), ConnectionError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let driver = &mut *self;
        if let Some(window) = driver.pace.wanted() {
            // Fails while the peer has not acknowledged the previous one: then it stays wanted.
            if driver.connection.set_initial_window_size(window).is_ok() {
                driver.connection.set_target_window_size(connection_window(window));
                driver.pace.set(window);
            }
        }
        if let Poll::Ready(end) = Pin::new(&mut driver.connection).poll(cx) {
            let announced = driver.closing.send_replace(true) || driver.client.strong_count() == 0;
            return Poll::Ready(match end {
                Err(error) if announced && driver.in_flight.harmless(&error) => Ok(()),
                end => end.map_err(ConnectionError::Http2),
            });
        }
        driver.ledger.settle();
        driver.notice_goaway(cx);
        driver.liveness.poll(cx).map(|()| Err(ConnectionError::Dead))
    }
}

impl<IO> Driver<IO> {
    /// h2 tells only those who want to open a stream.
    fn notice_goaway(&self, cx: &mut Context<'_>) {
        if *self.closing.borrow() {
            return;
        }
        let Some(client) = self.client.upgrade() else { return };
        if matches!(client.send().poll_ready(cx), Poll::Ready(Err(_))) {
            self.closing.send_replace(true);
        }
    }
}

impl Shared {
    fn send(&self) -> std::sync::MutexGuard<'_, SendRequest<Chunk>> {
        self.send.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    /// Opens one stream: metadata (credentials marked sensitive) and the `open` message go out at once.
    ///
    /// # Errors
    /// Nothing was sent: `Draining` or `TunnelLost` when the tunnel takes no more streams, `LimitReached` when the
    /// peer's limit of streams is in use or too much is held here, `InvalidRequest` when `open` is larger than any peer takes.
    pub async fn forward(
        &self,
        metadata: HeaderMap,
        open: pb::Open,
    ) -> Result<(Sender, Receiver<pb::ForwardResponse>), Failure> {
        self.shared.ledger.budget().admit(&self.shared.parties)?;
        let open = pb::ForwardRequest { part: Some(pb::forward_request::Part::Open(open)) };
        let (response, outbound, slot) =
            self.open(method::FORWARD, metadata, &open, false, STREAMS_FOR_CONTROL).await?;
        let slot = Arc::new(slot);
        let inbound = Inbound::response(response, Decoder::streaming());
        let holder = Holder::new(&self.shared.ledger, inbound);
        holder.belongs_to(self.shared.parties.clone());
        let outbound = outbound.counted(holder.clone());
        let receiver = Receiver::new(holder, Meter::new(self.shared.pace.clone()), slot.clone());
        Ok((Sender { outbound, finished: false, _slot: slot }, receiver))
    }

    /// The unary `Describe` call.
    ///
    /// # Errors
    /// The gateway's failure, or why the call could not be made or was cut short.
    pub async fn describe(&self, metadata: HeaderMap) -> Result<pb::DescribeResponse, Failure> {
        let mut answer = self.ask(method::DESCRIBE, metadata, &pb::DescribeRequest {}).await?;
        let description = match answer.next().await {
            Some(message) => message?,
            None => return Err(Failure::perhaps(Code::ProtocolError, "the call ended without an answer")),
        };
        match answer.next().await {
            None => Ok(description),
            Some(Ok(_)) => Err(Failure::perhaps(Code::ProtocolError, "more than one answer to a unary call")),
            Some(Err(failure)) => Err(failure),
        }
    }

    /// The server-streaming `Watch` call: events until the gateway goes.
    ///
    /// # Errors
    /// Why the call could not be made. What the gateway says comes from [`Watch::next`].
    pub async fn watch(&self, metadata: HeaderMap) -> Result<Watch, Failure> {
        Ok(Watch { events: self.ask(method::WATCH, metadata, &pb::WatchRequest {}).await? })
    }

    /// Streams in flight now, for least-loaded placement.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.count()
    }

    /// Whether new streams may be opened: false after GOAWAY or loss.
    pub fn is_open(&self) -> bool {
        !*self.closed.borrow() && self.closed.has_changed().is_ok()
    }

    /// Resolves when no new stream can be opened any more.
    pub async fn closed(&self) {
        // An error says that the driver is gone, which is the same.
        let _ = self.closed.clone().wait_for(|closed| *closed).await;
    }

    /// Last measured PING round trip.
    pub fn round_trip(&self) -> Option<std::time::Duration> {
        self.shared.pace.round_trip()
    }

    async fn ask<M>(
        &self,
        path: &'static str,
        metadata: HeaderMap,
        question: &impl Message,
    ) -> Result<Answer<M>, Failure> {
        let (response, _, slot) = self.open(path, metadata, question, true, 0).await?;
        let inbound = Inbound::response(response, Decoder::gathering());
        Ok(Answer { inbound, _slot: slot, _message: std::marker::PhantomData })
    }

    /// Opens a stream and sends its first message, unless fewer than `spare` streams would be left after it.
    async fn open(
        &self,
        path: &'static str,
        metadata: HeaderMap,
        first: &impl Message,
        end: bool,
        spare: usize,
    ) -> Result<(ResponseFuture, Outbound, Slot), Failure> {
        let first = Chunk::message(first)?;
        let mut send = self.shared.send().clone();
        poll_fn(|cx| send.poll_ready(cx)).await.map_err(|error| lost::never_sent(&error))?;
        let slot = self.slot(send.current_max_send_streams(), spare)?;
        let (response, stream) =
            send.send_request(request(path, metadata), false).map_err(|error| lost::never_sent(&error))?;
        let mut outbound = Outbound::new(stream);
        outbound.now(first, end)?;
        Ok((response, outbound, slot))
    }

    fn slot(&self, limit: usize, spare: usize) -> Result<Slot, Failure> {
        // A peer that takes very few gets all of them used.
        let usable = if limit > 2 * spare { limit - spare } else { limit };
        self.shared.in_flight.enter_below(usable).ok_or_else(|| {
            let text = format!("the tunnel carries {usable} streams, as many as the peer takes");
            Failure::before_target(Code::LimitReached, text)
        })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("in_flight", &self.in_flight()).field("open", &self.is_open()).finish()
    }
}

fn request(path: &'static str, mut metadata: HeaderMap) -> Request<()> {
    method::protect(&mut metadata);
    metadata.insert(header::CONTENT_TYPE, status::GRPC);
    metadata.insert(header::TE, HeaderValue::from_static("trailers"));
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(path);
    *request.headers_mut() = metadata;
    request
}

/// Messages of a call that is not `Forward`.
struct Answer<M> {
    inbound: Inbound,
    _slot: Slot,
    _message: std::marker::PhantomData<fn() -> M>,
}

impl<M: Message + Default> Answer<M> {
    async fn next(&mut self) -> Option<Result<M, Failure>> {
        Some(poll_fn(|cx| self.inbound.poll_next(cx)).await?.and_then(|piece| match piece {
            Piece::Message(bytes) => M::decode(bytes).map_err(|error| DecodeError::from(error).into()),
            Piece::Data(_) => Err(Failure::perhaps(Code::Internal, "streamed data in a gathered call")),
        }))
    }
}

/// Events of `Watch`.
pub struct Watch {
    events: Answer<pb::WatchEvent>,
}

impl Watch {
    /// The next event; `None` at a clean end. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<pb::WatchEvent, Failure>> {
        self.events.next().await
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("inbound", &self.events.inbound).finish()
    }
}

/// The sending half of the caller's direction. Dropping it before `fin` cancels the stream.
#[derive(Debug)]
pub struct Sender {
    outbound: Outbound,
    finished: bool,
    _slot: Arc<Slot>,
}

impl Sender {
    /// Sends payload as `data` messages, waiting for credit. Returns when h2 has accepted all of it. Not cancel-safe:
    /// after dropping the future nobody knows how much was sent.
    ///
    /// # Errors
    /// When the stream was reset or ended by the peer, or the tunnel broke: the receiving half knows more.
    pub async fn data(&mut self, payload: Bytes) -> Result<(), Failure> {
        self.outbound.data(payload).await
    }

    /// Ends this direction.
    ///
    /// # Errors
    /// As [`data`](Self::data).
    pub async fn fin(&mut self, fin: pb::Fin) -> Result<(), Failure> {
        let fin = Chunk::message(&pb::ForwardRequest { part: Some(pb::forward_request::Part::Fin(fin)) })?;
        self.outbound.chunk(fin, true).await?;
        self.finished = true;
        Ok(())
    }

    /// Cancels the stream (RST_STREAM CANCEL).
    pub fn cancel(&mut self) {
        self.finished = true;
        self.outbound.reset(Reason::CANCEL);
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if !self.finished {
            self.outbound.reset(Reason::CANCEL);
        }
    }
}
