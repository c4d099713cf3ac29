//! The admin port: `/livez`, `/readyz` with named guards, `/statusz`, `/metrics`, `/events`. Read-only; `Host` is checked,
//! and web pages of others are turned away; health may bind any address, the rest answers only on loopback (SD-16).
//!
//! It must stay usable when everything else is in trouble and harmless when somebody pokes at it: no request body is
//! read, one request per connection, a deadline for the whole of it, a bounded number at a time. Followers of `/events`
//! alone may stay, a few of them, for as long as they read.
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tracing::{debug, info, warn};

use self::events::Patience;
use crate::{metrics::Metrics, shutdown::Shutdown};

mod answer;
pub mod events;
mod readiness;
mod status;

pub use events::Events;
pub use readiness::{Guard, Readiness};
pub use status::StatusBoard;

/// Connections served at a time. Probes and one scraper need a handful; more would only serve an attacker.
const CONNECTIONS_MAX: usize = 32;

/// Within this a peer must have sent its request head.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);

/// Within this a whole connection must be over, so that 32 idle peers cannot lock out a probe for longer; but for those
/// that follow events.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(10);

/// Largest request head; the smallest that the HTTP library allows.
const HEAD_MAX: usize = 8 * 1024;

/// Pause after an accept error: they come in floods (no file descriptors left), and spinning makes those worse.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);

/// The `admin:` section that every config file may have.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where it listens; default 127.0.0.1 with a port per program. Port 0 lets the kernel choose. On an address that
    /// is not loopback only `/livez` and `/readyz` answer.
    pub address: Option<SocketAddr>,
    /// A second address for `/livez` and `/readyz` alone, such as the pod's, for probes of the kubelet; default none.
    pub health: Option<SocketAddr>,
}

impl Config {
    /// The addresses to bind: the configured ones, or loopback with the program's own port.
    pub fn addresses(&self, default_port: u16) -> impl Iterator<Item = SocketAddr> {
        let address = self.address.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, default_port).into());
        std::iter::once(address).chain(self.health)
    }
}

/// What `/statusz` answers with.
pub type Status = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// A bound admin port.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
}

impl Admin {
    /// Binds; the port is known after this.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        info!(what = "admin", %address, "listening");
        Ok(Self { listener, address })
    }

    /// The bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until shutdown has ended; owned and awaited by the caller, and never spawned on `shutdown` itself, which
    /// would wait for it. While draining, `/readyz` answers 503 and the rest goes on.
    pub async fn serve(
        self,
        readiness: Readiness,
        metrics: Metrics,
        status: Status,
        events: Events,
        shutdown: Shutdown,
    ) {
        let view = Arc::new(answer::View { address: self.address, readiness, metrics, status, events, shutdown });
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = view.shutdown.forced() => break,
                Some(_) = connections.join_next() => continue,
                accepted = accept(&self.listener, &permits) => accepted,
            };
            match accepted {
                Ok((stream, permit)) => {
                    let view = view.clone();
                    connections.spawn(async move {
                        connection(stream, view).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    warn!(%error, "admin port cannot accept");
                    tokio::time::sleep(ACCEPT_BACK_OFF).await;
                }
            }
        }
    }
}

/// A permit first: at the limit, newcomers wait in the kernel's queue.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

async fn connection(stream: TcpStream, view: Arc<answer::View>) {
    let patience = Patience::new(CONNECTION_DEADLINE);
    let lasting = patience.clone();
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(HEAD_MAX)
        .keep_alive(false)
        .serve_connection(
            TokioIo::new(stream),
            service_fn(move |request| {
                let answer = view.answer(&request, &lasting);
                async move { Ok::<_, std::convert::Infallible>(answer) }
            }),
        );
    tokio::select! {
        served = served => if let Err(error) = served {
            debug!(%error, "admin connection broke");
        },
        () = patience.run_out() => debug!("admin connection took too long"),
    }
}

#[cfg(test)]
mod tests;
