//! The gateway's end of a tunnel.
//!
//! [`Server::next`] gives calls as they arrive and drives the connection meanwhile; each call is then handled in a task
//! of its own. What is no gRPC call at all is answered here.
use std::{
    fmt,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

pub use super::other::Other;
use super::{
    client::ConnectionError,
    failure::{Code, Failure},
    hold::{Holder, Ledger},
    in_flight::{InFlight, Slot},
    inbound::Inbound,
    liveness::{Liveness, Observed},
    lost,
    message::{Chunk, Decoder},
    method, pb,
    receive::Receiver,
    send::Outbound,
    settings::{Settings, connection_window},
    status,
    window::{Meter, Pace},
};

/// Accepts calls on one connection.
pub struct Server<IO> {
    connection: h2::server::Connection<Observed<IO>, Chunk>,
    liveness: Liveness,
    pace: Arc<Pace>,
    ledger: Arc<Ledger>,
    in_flight: InFlight,
}

/// A call that arrived.
#[derive(Debug)]
pub enum Call {
    /// The hand-framed `Forward` call.
    Forward(Forward),
    /// Any other request: hand it to a tonic-generated service with `Other::serve`.
    Other(Other),
}

/// Starts HTTP/2 as the server on a transport. Returns when the peer's preface has come.
///
/// # Errors
/// If the peer does not speak HTTP/2, or the transport fails. There is no deadline here.
pub async fn accept<IO>(io: IO, settings: Settings) -> Result<Server<IO>, ConnectionError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let pace = Arc::new(Pace::new(settings.stream_window));
    let ledger = Ledger::new(settings.budget.clone(), pace.clone());
    let io = Observed::new(io, ledger.clone());
    let mut liveness = io.liveness(&settings, pace.clone());
    let mut connection = settings.server().handshake(io).await?;
    liveness.start(connection.ping_pong());
    Ok(Server { connection, liveness, pace, ledger, in_flight: InFlight::default() })
}

impl<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static> Server<IO> {
    /// The next call; drives the whole connection, so it must be polled until it gives `None` (closed in good order).
    /// Cancel-safe. An error is the end, too.
    pub async fn next(&mut self) -> Option<Result<Call, ConnectionError>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// GOAWAY: calls in flight go on, new ones are refused. Keep polling `next`.
    pub fn drain(&mut self) {
        self.connection.graceful_shutdown();
    }

    /// Calls in flight now: those whose halves are not all dropped.
    pub fn in_flight(&self) -> usize {
        self.in_flight.count()
    }

    /// Last measured PING round trip.
    pub fn round_trip(&self) -> Option<std::time::Duration> {
        self.pace.round_trip()
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Call, ConnectionError>>> {
        if let Some(window) = self.pace.wanted() {
            // Fails while the peer has not acknowledged the previous one: then it stays wanted.
            if self.connection.set_initial_window_size(window).is_ok() {
                self.connection.set_target_window_size(connection_window(window));
                self.pace.set(window);
            }
        }
        loop {
            let accepted = self.connection.poll_accept(cx);
            self.ledger.settle();
            let Poll::Ready(accepted) = accepted else {
                return self.liveness.poll(cx).map(|()| Some(Err(ConnectionError::Dead)));
            };
            let (request, respond) = match accepted {
                Some(Ok(accepted)) => accepted,
                Some(Err(error)) if self.in_flight.harmless(&error) => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(None),
            };
            if let Some(call) = self.call(request, respond) {
                return Poll::Ready(Some(Ok(call)));
            }
        }
    }

    /// Sorts what arrived; `None` if it was answered here.
    fn call(&self, request: Request<RecvStream>, mut respond: SendResponse<Chunk>) -> Option<Call> {
        let (mut head, body) = request.into_parts();
        method::protect(&mut head.headers);
        if head.method != Method::POST || !status::is_grpc(&head.headers) {
            let mut response = Response::new(());
            *response.status_mut() = if head.method == Method::POST {
                StatusCode::UNSUPPORTED_MEDIA_TYPE
            } else {
                StatusCode::METHOD_NOT_ALLOWED
            };
            // Fails only if the peer has reset the stream.
            let _ = respond.send_response(response, true);
            return None;
        }
        let slot = self.in_flight.enter();
        if head.uri.path() != method::FORWARD_PATH {
            return Some(Call::Other(Other::new(head, body, respond, slot)));
        }
        let slot = Arc::new(slot);
        let inbound = Inbound::request(body, Decoder::streaming());
        let holder = Holder::new(&self.ledger, inbound);
        let receiver = Receiver::new(holder.clone(), Meter::new(self.pace.clone()), slot.clone());
        Some(Call::Forward(Forward {
            metadata: head.headers,
            receiver,
            sender: Sender { reply: Reply::Head(respond), holder, _slot: slot },
        }))
    }
}

impl<IO> fmt::Debug for Server<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("pace", &self.pace).finish_non_exhaustive()
    }
}

/// One `Forward` call as it arrived; its first message has not been read yet.
#[derive(Debug)]
pub struct Forward {
    /// Request metadata.
    pub metadata: HeaderMap,
    /// The caller's direction.
    pub receiver: Receiver<pb::ForwardRequest>,
    /// Our direction.
    pub sender: Sender,
}

/// The sending half of our direction. Dropped without `finish` or `fail`, the stream is reset and the caller sees `Internal`.
#[derive(Debug)]
pub struct Sender {
    reply: Reply,
    holder: Arc<Holder>,
    _slot: Arc<Slot>,
}

#[derive(Debug)]
enum Reply {
    /// Nothing was sent yet.
    Head(SendResponse<Chunk>),
    Messages(Outbound),
    Over,
}

impl Sender {
    /// Sends any message but data: `head`, `connected`.
    ///
    /// # Errors
    /// When the caller has reset the stream, the tunnel broke, or the message is larger than any peer takes.
    pub async fn message(&mut self, message: pb::ForwardResponse) -> Result<(), Failure> {
        let message = Chunk::message(&message)?;
        self.outbound()?.chunk(message, false).await
    }

    /// Sends payload, waiting for credit. Not cancel-safe: after dropping the future nobody knows how much was sent.
    ///
    /// # Errors
    /// When the caller has reset the stream or the tunnel broke.
    pub async fn data(&mut self, payload: Bytes) -> Result<(), Failure> {
        self.outbound()?.data(payload).await
    }

    /// Ends our direction.
    ///
    /// # Errors
    /// As [`message`](Self::message).
    pub async fn fin(&mut self, fin: pb::Fin) -> Result<(), Failure> {
        self.message(pb::ForwardResponse { part: Some(pb::forward_response::Part::Fin(fin)) }).await
    }

    /// Both directions are done: status OK.
    pub fn finish(mut self) {
        self.end(status::ok());
    }

    /// The call failed: status with `ErrorInfo`.
    pub fn fail(mut self, failure: &Failure) {
        self.end(status::failed(failure));
    }

    /// The stream is cut off because it held too much. If the caller does not take what is being sent, a status would wait
    /// behind it, so the stream is reset, which the caller reads as a limit that was reached.
    pub fn cut(mut self, failure: &Failure) {
        if !self.holder.is_sending() {
            return self.end(status::failed(failure));
        }
        match std::mem::replace(&mut self.reply, Reply::Over) {
            Reply::Head(mut respond) => respond.send_reset(Reason::ENHANCE_YOUR_CALM),
            Reply::Messages(mut outbound) => outbound.reset(Reason::ENHANCE_YOUR_CALM),
            Reply::Over => {}
        }
    }

    /// Resolves when the caller has reset the stream or the tunnel is gone.
    pub async fn cancelled(&mut self) {
        poll_fn(|cx| match &mut self.reply {
            Reply::Head(respond) => respond.poll_reset(cx).map(drop),
            Reply::Messages(outbound) => outbound.poll_cancelled(cx).map(drop),
            Reply::Over => Poll::Pending,
        })
        .await;
    }

    fn outbound(&mut self) -> Result<&mut Outbound, Failure> {
        if let Reply::Head(respond) = &mut self.reply {
            let stream = respond.send_response(status::head(), false).map_err(|error| gone(respond, &error))?;
            self.reply = Reply::Messages(Outbound::new(stream).counted(self.holder.clone()));
        }
        match &mut self.reply {
            Reply::Messages(outbound) => Ok(outbound),
            Reply::Head(_) | Reply::Over => Err(Failure::perhaps(Code::Internal, "the call is over")),
        }
    }

    fn end(&mut self, trailers: HeaderMap) {
        match std::mem::replace(&mut self.reply, Reply::Over) {
            // Fails only if the caller has reset the stream.
            Reply::Head(mut respond) => drop(respond.send_response(status::trailers_only(trailers), true)),
            Reply::Messages(mut outbound) => outbound.trailers(trailers),
            Reply::Over => {}
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        match &mut self.reply {
            Reply::Head(respond) => respond.send_reset(Reason::INTERNAL_ERROR),
            Reply::Messages(outbound) => outbound.reset(Reason::INTERNAL_ERROR),
            Reply::Over => {}
        }
    }
}

/// Why a response head could not be sent.
fn gone(respond: &mut SendResponse<Chunk>, error: &h2::Error) -> Failure {
    match respond.poll_reset(&mut Context::from_waker(std::task::Waker::noop())) {
        Poll::Ready(Ok(reason)) => lost::reset(reason, true),
        Poll::Ready(Err(error)) => lost::stream(&error),
        Poll::Pending => lost::stream(error),
    }
}
