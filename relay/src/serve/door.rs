//! The door: accepts connections and holds them to deadlines and counts until they have proven something.
//!
//! A connection is *unproven* from its acceptance until its token was checked (or it was refused). It has 5 s for its
//! first byte, 10 s and 16 KiB for its whole head, and only so many are served at a time (`sources`).
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use identity::tls::ServerTls;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;
use tracing::warn;

use super::{
    Relay,
    access::Line,
    route,
    share::Excess,
    sources::{Connected, Sources, Unproven},
    upgrade::Accepted,
};
use crate::{
    splice::READ_MAX,
    transport::{self, Ahead, Link},
};

/// Within this the first byte must come.
const FIRST_BYTE: Duration = Duration::from_secs(5);

/// Within this, TLS and the whole request head must have come.
const WHOLE_HEAD: Duration = Duration::from_secs(10);

/// Largest request head: a token of 4 KiB, a path of 4 KiB, and a browser's cookies.
const HEAD_MAX: usize = 16 * 1024;

/// Most header lines of a request.
const HEADERS_MAX: usize = 100;

/// Encrypted bytes that TLS takes before they are written: one read of a splice leaves in one write. More is never given
/// to it at once.
const TLS_BUFFER: usize = 2 * READ_MAX;

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
    /// Taken by whoever answers the request.
    pub(crate) line: Mutex<Option<Box<Line>>>,
    /// Given back once the token was checked.
    pub(crate) unproven: Mutex<Option<Unproven>>,
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
            line: Mutex::new(Some(line)),
            unproven: Mutex::new(None),
            excess,
        });
        let tls = self.tls.as_ref().map(ServerTls::current);
        self.relay.shutdown.spawn(async move {
            let force = visitor.relay.shutdown.force_token();
            let served = tokio::select! {
                biased;
                () = force.cancelled() => Err(Failed::Forced),
                served = visitor.serve(stream, connected, unproven, tls) => served,
            };
            if let (Err(failed), Some(mut line)) = (served, visitor.take_line()) {
                visitor.relay.metrics.handshake_failed();
                failed.tell(&mut line);
            }
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
            Self::Http(error) if error.is_timeout() => line.end("head_too_slow", "peer"),
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
        drop(self.unproven.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Until the request is answered and, if it was an upgrade, handed over.
    async fn serve(
        self: &Arc<Self>,
        stream: TcpStream,
        connected: Connected,
        mut unproven: Unproven,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Result<(), Failed> {
        if !unproven.turn().await {
            self.relay.metrics.crowded();
            return Err(Failed::NoTurn);
        }
        *self.unproven.lock().unwrap_or_else(PoisonError::into_inner) = Some(unproven);
        let deadline = Instant::now() + WHOLE_HEAD;
        transport::prepare(&stream).map_err(Failed::Socket)?;
        match timeout(FIRST_BYTE, stream.peek(&mut [0])).await {
            Err(_) => return Err(Failed::NoFirstByte),
            Ok(Err(error)) => return Err(Failed::Socket(error)),
            Ok(Ok(0)) => return Err(Failed::Left),
            Ok(Ok(_)) => {}
        }
        let io = match tls {
            None => Link::Tcp(stream),
            Some(config) => {
                let accepted = timeout_at(deadline, TlsAcceptor::from(config).accept(Ahead::new(stream))).await;
                let mut stream = accepted.map_err(|_| Failed::TlsTooSlow)?.map_err(Failed::Tls)?;
                stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
                Link::Tls(Box::new(stream))
            }
        };
        let visitor = self.clone();
        let service = service_fn(move |request| {
            let visitor = visitor.clone();
            // Boxed: a sender waits here for its listener, and everybody else should not carry that much.
            Box::pin(async move { Ok::<_, Infallible>(route::answer(&visitor, request).await) })
        });
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(deadline.saturating_duration_since(Instant::now()))
            .max_buf_size(HEAD_MAX)
            .max_headers(HEADERS_MAX)
            .title_case_headers(true)
            .serve_connection(TokioIo::new(Accepted::new(io, connected)), service)
            .with_upgrades()
            .await
            .map_err(Failed::Http)
    }
}

/// Errors that concern one connection that is gone already.
fn is_peers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
