//! The door: accepts connections and holds them to deadlines and counts until they have proven something.
//!
//! A connection is *unproven* from its acceptance until its token was checked (or it was refused), and again while a
//! further head of an HTTP sender is on its way. It has 5 s for its first byte, 10 s and 36 KiB for a whole head, and only
//! so many are served at a time (`sources`).
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use identity::tls::ServerTls;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    sync::OwnedSemaphorePermit,
    time::{sleep, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    Relay,
    access::Line,
    body::{Body, CutShort},
    route,
    share::{Excess, Place},
    sources::{Connected, Sources, Unproven},
    turns::{Timed, Turns},
    upgrade::{Accepted, Transport},
};
use crate::transport::{self, Ahead, Link};

/// Within this the first byte must come.
const FIRST_BYTE: Duration = Duration::from_secs(5);

/// Within this, TLS and the whole request head must have come; a further head from its first byte on.
pub(crate) const WHOLE_HEAD: Duration = Duration::from_secs(10);

/// Largest request head: 32 KiB of fields, as much as Azure takes, and a request line of 4 KiB. The most that anybody can
/// make us hold before a token was seen; `limits.handshakes` says how often.
const HEAD_MAX: usize = 36 * 1024;

/// Most header lines of a request.
const HEADERS_MAX: usize = 100;

/// How long a connection that we have ended is still read from: a round trip to the other side of the world, and a few
/// retransmissions.
const LINGER: Duration = Duration::from_secs(2);

/// How much is still read from it: what fits into the buffers of both ends.
const LINGER_BYTES: usize = 4 * 1024 * 1024;

/// Pause after an accept error: they come in floods (no file descriptors left), and spinning makes those worse.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);

/// One port.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) listener: TcpListener,
    pub(crate) tls: Option<ServerTls>,
    pub(crate) sources: Sources,
    pub(crate) relay: Arc<Relay>,
}

/// What a connection's request handling knows and takes over.
#[derive(Debug)]
pub(crate) struct Visitor {
    pub(crate) relay: Arc<Relay>,
    pub(crate) peer: SocketAddr,
    pub(crate) tls: bool,
    /// Whose turn it is.
    pub(crate) turns: Turns,
    /// Taken by whoever answers the request.
    line: Mutex<Option<Box<Line>>>,
    /// Given back once the token was checked.
    unproven: Mutex<Option<Unproven>>,
    sources: Sources,
    /// Its address has more connections than it may have.
    pub(crate) excess: Option<Excess>,
}

impl Door {
    /// Accepts until the drain begins.
    pub(crate) async fn run(self) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.relay.shutdown.draining() => return,
                accepted = self.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer, room)) => self.welcome(stream, peer, room),
                Err(error) if is_peers(&error) => {}
                Err(error) => {
                    warn!(%error, "relay cannot accept connections");
                    sleep(ACCEPT_BACK_OFF).await;
                }
            }
        }
    }

    /// Room first: at the limit, newcomers wait in the kernel's queue.
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let room = self.sources.room().await;
        let (stream, peer) = self.listener.accept().await?;
        Ok((stream, peer, room))
    }

    fn welcome(&self, stream: TcpStream, peer: SocketAddr, room: OwnedSemaphorePermit) {
        let mut line = Box::new(Line::new(peer));
        let (unproven, connected, excess) = match self.sources.admit(peer, room) {
            Ok(admitted) => admitted,
            Err(excess) => {
                self.relay.metrics.crowded();
                line.end("crowded", "peer");
                line.because(excess);
                return;
            }
        };
        let visitor = Arc::new(Visitor {
            relay: self.relay.clone(),
            peer,
            tls: self.tls.is_some(),
            turns: Turns::new(),
            line: Mutex::new(Some(line)),
            unproven: Mutex::new(None),
            sources: self.sources.clone(),
            excess,
        });
        let tls = self.tls.as_ref().map(ServerTls::current);
        self.relay.shutdown.spawn(async move {
            let served = visitor.serve(stream, connected, unproven, tls).await;
            let Some(mut line) = visitor.take_line() else { return };
            match (visitor.turns.late(), served) {
                (Some(late), _) => line.end(late, "peer"),
                (None, Err(failed)) => failed.tell(&mut line),
                (None, Ok(())) => return,
            }
            visitor.relay.metrics.handshake_failed();
        });
    }
}

/// Why a connection never became a request that we answered.
#[derive(Debug)]
enum Failed {
    Socket(io::Error),
    NoTurn,
    NoFirstByte,
    Left,
    Tls(io::Error),
    TlsTooSlow,
    Http(hyper::Error),
    Forced,
}

impl Failed {
    fn tell(self, line: &mut Line) {
        match self {
            Self::Socket(error) => {
                line.end("socket", "relay");
                line.because(error);
            }
            Self::NoTurn => line.end("crowded", "peer"),
            Self::NoFirstByte => line.end("silent", "peer"),
            Self::Left => line.end("left", "peer"),
            Self::Tls(error) => {
                line.end("tls_failed", "peer");
                line.because(error);
            }
            Self::TlsTooSlow => line.end("tls_too_slow", "peer"),
            Self::Http(error) => {
                line.end("bad_request", "peer");
                line.because(error);
            }
            Self::Forced => line.end("forced", "relay"),
        }
    }
}

impl Visitor {
    /// Takes the access line over.
    pub(crate) fn take_line(&self) -> Option<Box<Line>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The token was checked: this connection no longer counts as unproven.
    pub(crate) fn proven(&self) {
        drop(self.unproven().take());
    }

    /// Whether that has happened.
    pub(crate) fn is_proven(&self) -> bool {
        self.unproven().is_none()
    }

    /// Another head begins on this connection.
    pub(crate) fn begins_again(&self) {
        *self.line.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(Line::new(self.peer)));
    }

    /// That head takes its time; false when there is no room for that.
    pub(crate) fn is_unproven_again(&self) -> bool {
        let unproven = self.sources.admit_again(self.peer);
        let has_room = unproven.is_some();
        if !has_room {
            self.relay.metrics.crowded();
        }
        *self.unproven() = unproven;
        has_room
    }

    fn unproven(&self) -> MutexGuard<'_, Option<Unproven>> {
        self.unproven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until its requests are answered and, if one was an upgrade, handed over.
    async fn serve(
        self: &Arc<Self>,
        stream: TcpStream,
        connected: Connected,
        unproven: Unproven,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Result<(), Failed> {
        let force = self.relay.shutdown.force_token();
        let io = tokio::select! {
            biased;
            () = force.cancelled() => return Err(Failed::Forced),
            io = self.let_in(stream, unproven, tls) => io?,
        };
        self.answer(Accepted::new(io, connected), &force).await
    }

    /// Its turn, its first byte, and TLS.
    async fn let_in(
        &self,
        stream: TcpStream,
        mut unproven: Unproven,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Result<Transport, Failed> {
        if !unproven.turn().await {
            self.relay.metrics.crowded();
            return Err(Failed::NoTurn);
        }
        *self.unproven() = Some(unproven);
        let deadline = self.turns.begins();
        transport::prepare(&stream).map_err(Failed::Socket)?;
        match timeout(FIRST_BYTE, stream.peek(&mut [0])).await {
            Err(_) => return Err(Failed::NoFirstByte),
            Ok(Err(error)) => return Err(Failed::Socket(error)),
            Ok(Ok(0)) => return Err(Failed::Left),
            Ok(Ok(_)) => {}
        }
        let Some(config) = tls else { return Ok(Link::Tcp(stream)) };
        let accepted = timeout_at(deadline, TlsAcceptor::from(config).accept(Ahead::new(stream))).await;
        Ok(Link::Tls(Box::new(accepted.map_err(|_| Failed::TlsTooSlow)?.map_err(Failed::Tls)?)))
    }

    /// One request after the other. A connection that ends within an answer is reset: some answers have no other end than
    /// the connection's, and would look whole.
    async fn answer(self: &Arc<Self>, io: Accepted, force: &CancellationToken) -> Result<(), Failed> {
        let visitor = self.clone();
        let service = service_fn(move |request| {
            let visitor = visitor.clone();
            // Boxed: a sender waits here for its listener, and everybody else should not carry that much.
            Box::pin(async move {
                visitor.turns.asked();
                let response = route::answer(&visitor, request).await;
                Ok::<_, Infallible>(visitor.answering(response))
            })
        });
        let mut connection = hyper::server::conn::http1::Builder::new()
            // Timed knows whose turn it is.
            .header_read_timeout(None)
            .max_buf_size(HEAD_MAX)
            .max_header_size(HEAD_MAX)
            .max_headers(HEADERS_MAX)
            .title_case_headers(true)
            .serve_connection(TokioIo::new(Timed::new(io, self.clone())), service)
            .with_upgrades();
        let draining = self.relay.shutdown.draining();
        let answered = async {
            tokio::select! {
                served = &mut connection => served,
                () = draining => {
                    // The request that is being answered is the last.
                    Pin::new(&mut connection).graceful_shutdown();
                    (&mut connection).await
                }
            }
        };
        let served = tokio::select! {
            biased;
            () = force.cancelled() => Err(Failed::Forced),
            served = answered => served.map_err(Failed::Http),
        };
        let is_forced = matches!(served, Err(Failed::Forced));
        // Asked before the parts are taken, which drops the answer.
        let is_within_answer = is_forced && self.turns.is_answering();
        // Without parts it was an upgrade, and belongs to somebody else.
        if let Some(parts) = connection.into_parts() {
            let io = parts.io.into_inner();
            let is_cut = self.turns.was_cut() || is_within_answer || is_forced && io.is_writing();
            let io = io.into_inner();
            if is_cut {
                io.reset();
            } else if !is_forced && self.turns.late().is_none() {
                Box::pin(linger(io)).await;
            }
        }
        served
    }

    /// An answer on its way, with what follows it on this connection.
    fn answering(self: &Arc<Self>, mut response: Response<Body>) -> Response<Answering> {
        let kept = self.relay.kept.take().ok();
        let is_last = kept.is_none() && response.status() != StatusCode::SWITCHING_PROTOCOLS;
        if is_last {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response.map(|body| Answering { body, visitor: self.clone(), kept })
    }
}

/// Body of an answer on its way; its end is the end of our turn.
#[derive(Debug)]
struct Answering {
    body: Body,
    visitor: Arc<Visitor>,
    kept: Option<Place>,
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Err(_))) = &polled {
            self.visitor.turns.cut();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.visitor.turns.answered(self.kept.take());
    }
}

/// Takes what a peer is still sending, for a while: closed with something unread, the connection would be reset, and the
/// answer that says why might be lost on the way.
async fn linger(mut io: Accepted) {
    let mut left = LINGER_BYTES;
    let taken = async {
        let mut bytes = [0; 4096];
        while let Ok(read @ 1..) = io.read(&mut bytes).await {
            left = left.saturating_sub(read);
            if left == 0 {
                break;
            }
        }
    };
    // Whoever goes on for longer is not listening.
    let _ = timeout(LINGER, taken).await;
}

/// Errors that concern one connection that is gone already.
fn is_peers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
