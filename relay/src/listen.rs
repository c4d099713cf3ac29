//! `relay listen`: the cluster side, outbound only. Holds control channels to relays (ours or Azure's) and hands each
//! rendezvous to a local target as a byte stream.
//!
//! A control channel that breaks is dialled again (`channel`); running rendezvous do not depend on it. Everything a
//! relay says is untrusted: where it may send us is decided by `permit`, how often is bounded. A target that is down is
//! told to the sender by a rejection (`rendezvous`). When draining, control channels are closed first, and what runs
//! may finish.
mod channel;
mod config;
mod metrics;
mod permit;
mod proxy_v2;
mod rendezvous;

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use daemon::{
    admin::Guard,
    config::{ConfigError, Loaded},
    process::{Context, StartFailure},
};
use identity::tls::{TlsError, client, roots};
use rustls::ClientConfig;
use tokio::{
    sync::Semaphore,
    time::{Duration, Instant},
};

pub use self::config::{Config, Forward, HybridConnection};
use self::{metrics::ListenerMetrics, permit::Permit};
use crate::{
    dial::Dialer,
    sender::{Address, Credential},
    splice::Buffers,
};

/// Dials in flight at a time, to targets and relays (SD-8).
const DIALS: usize = 64;

/// Rendezvous that wait for one of those dials; more are dropped, and their senders learn it by the relay's timeout.
const DIALS_WAITING: usize = 256;

/// Rendezvous that are joined at once, of all hybrid connections. Each holds two sockets: with one gateway behind it a
/// listener carries some tunnels for each connector, and a relay that asks for more than this is not to be obeyed.
const JOINED: usize = 4096;

/// Memory for large reads of all rendezvous together.
const BUFFER_MEMORY: usize = 256 * 1024 * 1024;

/// A relay that cannot be reached for so long no longer keeps this process from being ready: it does its part (SD-15).
const UNREACHABLE_IS_READY: Duration = Duration::from_secs(60);

/// A running listener.
#[derive(Debug)]
pub struct Running {
    /// Control channels that are open now, of all hybrid connections.
    channels: Vec<Arc<Held>>,
}

impl Running {
    /// How many control channels are open now.
    pub fn channels(&self) -> usize {
        self.channels.iter().map(|held| held.open.load(Ordering::Relaxed)).sum()
    }
}

/// Why it could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A key cannot be read or is too weak.
    #[error("the listener's configuration cannot be used")]
    Config(#[from] ConfigError),
    /// The trust section cannot be used.
    #[error("the listener's trust cannot be used")]
    Trust(#[from] TlsError),
}

impl StartFailure for StartError {
    fn is_bad_config(&self) -> bool {
        match self {
            Self::Config(_) | Self::Trust(_) => true,
        }
    }
}

/// One hybrid connection that is listened on.
#[derive(Debug)]
pub(crate) struct Held {
    address: Address,
    credential: Credential,
    tls: Arc<ClientConfig>,
    forward: Forward,
    permit: Permit,
    dialer: Dialer,
    dials: Arc<Semaphore>,
    dials_waiting: Arc<Semaphore>,
    joined: Arc<Semaphore>,
    buffers: Buffers,
    context: Context,
    metrics: ListenerMetrics,
    /// Control channels that are open.
    open: AtomicUsize,
    ready: Mutex<Option<Guard>>,
    began: Instant,
}

impl Held {
    /// A channel is up, or the relay was unreachable long enough: this process does its part.
    fn mark_ready(&self) {
        if let Some(guard) = self.ready.lock().unwrap_or_else(PoisonError::into_inner).take() {
            guard.ready();
        }
    }
}

/// Starts a listener; its tasks belong to `context.shutdown`.
#[expect(clippy::unused_async, reason = "every component is started in the same way")]
pub async fn start(config: Loaded<Config>, context: Context) -> Result<Running, StartError> {
    let Loaded { values, base, .. } = config;
    let tls = client(roots(&values.trust, &base)?, &[b"http/1.1"]);
    let dialer = Dialer::open(&values.proxy, &values.trust, &base)?;
    let metrics = ListenerMetrics::register(&context.metrics);
    let dials = Arc::new(Semaphore::new(DIALS));
    let dials_waiting = Arc::new(Semaphore::new(DIALS_WAITING));
    let joined = Arc::new(Semaphore::new(JOINED));
    let buffers = Buffers::new(BUFFER_MEMORY);
    let mut held = Vec::new();
    for connection in &values.hybrid_connections {
        let (address, credential) = connection.access().open(&base, &context)?;
        held.push(Arc::new(Held {
            permit: Permit::new(&address, &connection.rendezvous_hosts, &connection.rendezvous_ports),
            credential,
            tls: tls.clone(),
            forward: connection.forward.clone(),
            dialer: dialer.clone(),
            dials: dials.clone(),
            dials_waiting: dials_waiting.clone(),
            joined: joined.clone(),
            buffers: buffers.clone(),
            metrics: metrics.clone(),
            open: AtomicUsize::new(0),
            ready: Mutex::new(Some(context.readiness.guard("control channel"))),
            began: Instant::now(),
            context: context.clone(),
            address,
        }));
    }
    // Only when everything was found valid does anything begin.
    for (held, connection) in held.iter().zip(&values.hybrid_connections) {
        for _ in 0..connection.channels {
            context.shutdown.spawn(channel::keep(held.clone()));
        }
    }
    show(&context, &held);
    Ok(Running { channels: held })
}

fn show(context: &Context, held: &[Arc<Held>]) {
    let held: Vec<_> = held.iter().map(Arc::downgrade).collect();
    context.status.section("hybrid_connections", move || {
        held.iter()
            .filter_map(std::sync::Weak::upgrade)
            .map(|held| {
                serde_json::json!({
                    "url": held.address.to_string(),
                    "channels": held.open.load(Ordering::Relaxed),
                    "forward": held.forward.target(),
                })
            })
            .collect()
    });
}
