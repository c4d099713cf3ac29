//! The door: accepts connections and holds them to deadlines and counts until they have proven something.
//!
//! A connection is *unproven* from its acceptance until its token was checked (or it was refused). It has 5 s for its
//! first byte, 10 s and 16 KiB for its whole head, and only so many may come from one address.
use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use identity::tls::ServerTls;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;
use tracing::warn;

use super::{Relay, access::Line, config::Limits, route, upgrade::Accepted};
use crate::transport::{self, Link};

/// Within this the first byte must come.
const FIRST_BYTE: Duration = Duration::from_secs(5);

/// Within this, TLS and the whole request head must have come.
const WHOLE_HEAD: Duration = Duration::from_secs(10);

/// Largest request head: a token of 4 KiB, a path of 4 KiB, and a browser's cookies.
const HEAD_MAX: usize = 16 * 1024;

/// Most header lines of a request.
const HEADERS_MAX: usize = 100;

/// Pause after an accept error: they come in floods (no file descriptors left), and spinning makes those worse.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);

/// Addresses that are counted at a time is bounded by the unproven connections in all, as each entry has one.
#[derive(Debug, Clone)]
pub(crate) struct Counts {
    all: Arc<Semaphore>,
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
    per_address: usize,
}

/// The right to be unproven, given back on drop.
#[derive(Debug)]
pub(crate) struct Unproven {
    counts: Counts,
    address: IpAddr,
    _one_of_all: OwnedSemaphorePermit,
}

/// One port.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) listener: TcpListener,
    pub(crate) tls: Option<ServerTls>,
    pub(crate) counts: Counts,
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
}

impl Counts {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits.handshakes.min(Semaphore::MAX_PERMITS))),
            by_address: Arc::default(),
            per_address: limits.handshakes_per_address,
        }
    }

    fn admit(&self, peer: SocketAddr, permit: OwnedSemaphorePermit) -> Option<Unproven> {
        let address = counted(peer.ip());
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_address.entry(address).or_default();
        if *count >= self.per_address {
            return None;
        }
        *count += 1;
        Some(Unproven { counts: self.clone(), address, _one_of_all: permit })
    }
}

impl Drop for Unproven {
    fn drop(&mut self) {
        let mut by_address = self.counts.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

/// What counts as one address: an IPv4 address, or the /64 that one IPv6 user has.
pub(crate) fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
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
                Ok((stream, peer, permit)) => self.welcome(stream, peer, permit),
                Err(error) if is_peers(&error) => {}
                Err(error) => {
                    warn!(%error, "relay cannot accept connections");
                    sleep(ACCEPT_BACK_OFF).await;
                }
            }
        }
    }

    /// A permit first: at the limit, newcomers wait in the kernel's queue.
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let permit = self.counts.all.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (stream, peer) = self.listener.accept().await?;
        Ok((stream, peer, permit))
    }

    fn welcome(&self, stream: TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit) {
        let mut line = Box::new(Line::new(peer));
        let Some(unproven) = self.counts.admit(peer, permit) else {
            self.relay.metrics.crowded();
            line.end("crowded", "peer");
            line.because("too many unproven connections from this address (limits.handshakes_per_address)");
            return;
        };
        let visitor = Arc::new(Visitor {
            relay: self.relay.clone(),
            peer,
            tls: self.tls.is_some(),
            line: Mutex::new(Some(line)),
            unproven: Mutex::new(Some(unproven)),
        });
        let tls = self.tls.as_ref().map(ServerTls::current);
        self.relay.shutdown.spawn(async move {
            let force = visitor.relay.shutdown.force_token();
            let served = tokio::select! {
                biased;
                () = force.cancelled() => Err(Failed::Forced),
                served = visitor.serve(stream, tls) => served,
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
    async fn serve(self: &Arc<Self>, stream: TcpStream, tls: Option<Arc<rustls::ServerConfig>>) -> Result<(), Failed> {
        let deadline = Instant::now() + WHOLE_HEAD;
        transport::prepare(&stream).map_err(Failed::Socket)?;
        match timeout(FIRST_BYTE, stream.peek(&mut [0])).await {
            Err(_) => return Err(Failed::NoFirstByte),
            Ok(Err(error)) => return Err(Failed::Socket(error)),
            Ok(Ok(0)) => return Err(Failed::Left),
            Ok(Ok(_)) => {}
        }
        let io: Accepted = match tls {
            None => Link::Tcp(stream),
            Some(config) => {
                let accepted = timeout_at(deadline, TlsAcceptor::from(config).accept(stream)).await;
                Link::Tls(Box::new(accepted.map_err(|_| Failed::TlsTooSlow)?.map_err(Failed::Tls)?))
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
            .serve_connection(TokioIo::new(io), service)
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
