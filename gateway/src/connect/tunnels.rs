//! The tunnels held to one cluster, and the choice among them: least loaded first, waiting a bounded time while none is
//! up, and trying another one when a stream certainly did not leave its tunnel. Bulk has a tunnel of its own, opened when
//! it is first needed.
mod choose;
pub(crate) mod keep;
pub(crate) mod life;
mod notice;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use daemon::workers::Worker;
use http::HeaderMap;
use proto::tunnel::{
    client::{Client, Sender, Watch},
    failure::{Code, Failure, Reached},
    pb,
    receive::Receiver,
};
use tokio::sync::{Notify, watch};

use super::{
    metrics::ClusterMetrics,
    way::error::{WayCode, WayError},
};

/// How long a stream waits for a tunnel while none is up: longer than a replacement takes, shorter than
/// the patience of whoever called.
pub(crate) const WAIT_FOR_TUNNEL: Duration = Duration::from_secs(5);
/// Tunnels tried for one stream: each is refused by one that is going away, and more than this is not bad luck.
pub(crate) const ATTEMPTS_MAX: usize = 4;

/// One tunnel that takes new streams.
pub(crate) struct Tunnel {
    pub(crate) id: u64,
    client: Client,
    pub(crate) way: &'static str,
    /// Where its connection is driven: streams that are used elsewhere cost more.
    worker: Worker,
    lane: Lane,
    /// Streams on it that have turned out to be bulk.
    bulk: AtomicUsize,
    address: String,
    identity: String,
    since: Instant,
    /// What the gateway has told last: its view of who we are and until when, what it is, what it knows of the cluster.
    told: Mutex<pb::DescribeResponse>,
    /// Asks for an early renewal of the actor.
    renew: Notify,
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").field("id", &self.id).field("way", &self.way).finish_non_exhaustive()
    }
}

/// What a tunnel is for. Streams take one of the other kind only if there is none of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Streams that somebody waits on.
    Interactive,
    /// Streams that move as much as they can.
    Bulk,
}

/// All tunnels to one cluster, seen by those of one lane. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Tunnels {
    inner: Arc<Inner>,
    lane: Lane,
}

#[derive(Debug)]
struct Inner {
    cluster: Arc<str>,
    wanted: AtomicUsize,
    live: Mutex<Vec<Arc<Tunnel>>>,
    /// Says that `live` has grown.
    grown: watch::Sender<()>,
    trouble: Mutex<Vec<Trouble>>,
    ids: AtomicU64,
    turn: AtomicUsize,
    /// Goes true when a stream is bulk for the first time.
    bulk_wanted: watch::Sender<bool>,
    metrics: ClusterMetrics,
}

/// What happened last on a way.
#[derive(Debug, Clone)]
struct Trouble {
    way: &'static str,
    address: String,
    code: WayCode,
    stage: &'static str,
    said: String,
    at: Instant,
}

/// A stream on a tunnel.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) tunnel: Arc<Tunnel>,
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver<pb::ForwardResponse>,
}

/// Whether the very same stream may be opened again on another tunnel: it certainly was not seen by the target, and the
/// tunnel was the reason.
pub(crate) fn is_repeatable(failure: &Failure) -> bool {
    failure.reached == Reached::No && matches!(failure.code, Code::TunnelLost | Code::Draining)
}

fn is_full(failure: &Failure) -> bool {
    failure.reached == Reached::No && failure.code == Code::LimitReached
}

impl Tunnels {
    /// No tunnel yet; `wanted` are to be held.
    pub(crate) fn new(cluster: Arc<str>, wanted: usize, metrics: ClusterMetrics) -> Self {
        Self {
            inner: Arc::new(Inner {
                cluster,
                wanted: AtomicUsize::new(wanted),
                live: Mutex::default(),
                grown: watch::Sender::new(()),
                trouble: Mutex::default(),
                ids: AtomicU64::new(1),
                turn: AtomicUsize::new(0),
                bulk_wanted: watch::Sender::new(false),
                metrics,
            }),
            lane: Lane::Interactive,
        }
    }

    /// The same tunnels, for bulk.
    pub(crate) fn for_bulk(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), lane: Lane::Bulk }
    }

    /// Resolves when a tunnel of this lane is needed: one for bulk not before there is bulk.
    pub(crate) async fn wanted(&self) {
        if self.lane == Lane::Bulk {
            // The sender is part of this.
            let _ = self.inner.bulk_wanted.subscribe().wait_for(|wanted| *wanted).await;
        }
    }

    pub(crate) fn cluster(&self) -> &Arc<str> {
        &self.inner.cluster
    }

    /// How many are to be held from now on.
    pub(crate) fn wants(&self, wanted: usize) {
        self.inner.wanted.store(wanted, Ordering::Relaxed);
    }

    fn live(&self) -> MutexGuard<'_, Vec<Arc<Tunnel>>> {
        self.inner.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self) -> MutexGuard<'_, Vec<Trouble>> {
        self.inner.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a stream on the least loaded tunnel, one of this worker if there is any. `make` gives its metadata and head, once for each attempt.
    pub(crate) async fn open(&self, make: impl Fn() -> (HeaderMap, pb::Open)) -> Result<Stream, Failure> {
        if self.lane == Lane::Bulk {
            self.inner.bulk_wanted.send_if_modified(|wanted| !std::mem::replace(wanted, true));
        }
        let deadline = tokio::time::Instant::now() + WAIT_FOR_TUNNEL;
        let mut avoid = None;
        let mut attempt = 1;
        loop {
            let tunnel = self.pick(deadline, avoid).await?;
            let (metadata, open) = make();
            match tunnel.client.forward(metadata, open).await {
                Ok((sender, receiver)) => return Ok(Stream { tunnel, sender, receiver }),
                // Nothing was sent: this tunnel goes away or is full.
                Err(failure) if attempt < ATTEMPTS_MAX && (is_repeatable(&failure) || is_full(&failure)) => {
                    let (cluster, code) = (&self.inner.cluster, failure.code.name());
                    tracing::debug!(%cluster, tunnel = tunnel.id, code, "trying another tunnel");
                    // The only tunnel there is may be tried again.
                    avoid = (self.up() > 1).then_some(tunnel.id);
                    attempt += 1;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// `Describe`, as whoever the metadata speaks for.
    pub(crate) async fn describe(&self, metadata: &HeaderMap) -> Result<pb::DescribeResponse, Failure> {
        let tunnel = self.pick(tokio::time::Instant::now() + WAIT_FOR_TUNNEL, None).await?;
        tunnel.client.describe(metadata.clone()).await
    }

    /// `Watch`, as whoever the metadata speaks for.
    pub(crate) async fn watch(&self, metadata: &HeaderMap) -> Result<Watch, Failure> {
        let tunnel = self.pick(tokio::time::Instant::now() + WAIT_FOR_TUNNEL, None).await?;
        tunnel.client.watch(metadata.clone()).await
    }

    /// The least loaded open tunnel; waits until `deadline` for one.
    async fn pick(&self, deadline: tokio::time::Instant, avoid: Option<u64>) -> Result<Arc<Tunnel>, Failure> {
        if let Some(tunnel) = self.least_loaded(avoid) {
            return Ok(tunnel);
        }
        let mut grown = self.inner.grown.subscribe();
        loop {
            // Again after subscribing: one may have come in between.
            if let Some(tunnel) = self.least_loaded(avoid) {
                return Ok(tunnel);
            }
            if tokio::time::timeout_at(deadline, grown.changed()).await.is_err() {
                return Err(Failure::before_target(Code::TunnelLost, self.explain_absence()));
            }
        }
    }

    fn least_loaded(&self, avoid: Option<u64>) -> Option<Arc<Tunnel>> {
        let (live, here) = (self.live(), Worker::here());
        // Among equals take turns, so that idle tunnels share new streams.
        let turn = self.inner.turn.fetch_add(1, Ordering::Relaxed);
        let count = live.len();
        (0..count)
            .map(|step| &live[(turn + step) % count])
            .filter(|tunnel| tunnel.client.is_open() && Some(tunnel.id) != avoid)
            .min_by_key(|tunnel| {
                let disturbed = self.lane == Lane::Interactive && tunnel.carries_bulk();
                (tunnel.lane != self.lane, disturbed, tunnel.worker != here, tunnel.client.in_flight())
            })
            .cloned()
    }

    /// For a stream that waited in vain.
    fn explain_absence(&self) -> String {
        self.absence(&format!(", waited {WAIT_FOR_TUNNEL:?}"))
    }

    /// That no tunnel is up, and why not.
    pub(crate) fn absence(&self, more: &str) -> String {
        let cluster = &self.inner.cluster;
        let mut text = format!("no tunnel to cluster {cluster} is up{more}");
        for trouble in self.trouble().iter() {
            let code = trouble.code.id();
            text.push_str(&format!(
                "; {} {}: {code} at {}: {}",
                trouble.way, trouble.address, trouble.stage, trouble.said
            ));
        }
        text
    }

    /// Takes a tunnel in. It is offered to streams until [`Tunnels::remove`].
    fn add(&self, opened: &super::way::Opened) -> Arc<Tunnel> {
        let tunnel = Arc::new(Tunnel {
            id: self.inner.ids.fetch_add(1, Ordering::Relaxed),
            client: opened.client.clone(),
            way: opened.way,
            worker: Worker::here(),
            lane: self.lane,
            bulk: AtomicUsize::new(0),
            address: opened.address.clone(),
            identity: opened.identity.clone(),
            since: Instant::now(),
            told: Mutex::new(opened.state.clone()),
            renew: Notify::new(),
        });
        self.live().push(Arc::clone(&tunnel));
        self.inner.metrics.tunnels.inc();
        self.inner.metrics.tunnels_opened.inc();
        self.trouble().retain(|trouble| trouble.address != opened.address);
        self.inner.grown.send_replace(());
        tunnel
    }

    fn remove(&self, id: u64) {
        self.live().retain(|tunnel| tunnel.id != id);
        self.inner.metrics.tunnels.dec();
    }

    /// Remembers why a way failed, for whoever asks and for streams that wait in vain.
    fn failed(&self, way: &'static str, address: &str, error: &WayError) {
        self.inner.metrics.failed(way, error.code);
        let trouble = Trouble {
            way,
            address: address.to_owned(),
            code: error.code,
            stage: error.stage.name(),
            said: error.explained(),
            at: Instant::now(),
        };
        let mut all = self.trouble();
        all.retain(|old| old.address != address);
        all.push(trouble);
    }

    /// Tunnels up now.
    pub(crate) fn up(&self) -> usize {
        self.live().iter().filter(|tunnel| tunnel.client.is_open()).count()
    }

    /// Whether one of this lane is driven by this worker.
    pub(crate) fn is_on(&self, worker: Worker) -> bool {
        let fits = |tunnel: &Arc<Tunnel>| tunnel.lane == self.lane && tunnel.worker == worker;
        self.live().iter().any(|tunnel| fits(tunnel) && tunnel.client.is_open())
    }

    /// When the actor's proof ends on the tunnel where it ends first (Unix seconds), if anybody knows.
    pub(crate) fn first_expiry(&self) -> Option<i64> {
        let expiry = |tunnel: &Arc<Tunnel>| tunnel.told.lock().unwrap_or_else(PoisonError::into_inner).actor_expires;
        self.live().iter().map(expiry).filter(|expires| *expires > 0).min()
    }

    /// What `/statusz` tells about this cluster.
    pub(crate) fn status(&self) -> serde_json::Value {
        let tunnels: Vec<_> = self.live().iter().map(|tunnel| tunnel.status()).collect();
        let trouble: Vec<_> = self
            .trouble()
            .iter()
            .map(|trouble| {
                serde_json::json!({
                    "way": trouble.way,
                    "address": trouble.address,
                    "code": trouble.code.id(),
                    "name": trouble.code.name(),
                    "stage": trouble.stage,
                    "message": trouble.said,
                    "remedy": trouble.code.remedy(),
                    "seconds_ago": trouble.at.elapsed().as_secs(),
                })
            })
            .collect();
        serde_json::json!({
            "cluster": &*self.inner.cluster,
            "up": self.up(),
            "wanted": self.inner.wanted.load(Ordering::Relaxed),
            "tunnels": tunnels,
            "last_errors": trouble,
            "gateway_identity_mismatch": self.inner.metrics.mismatches.get(),
        })
    }
}

impl Tunnel {
    /// The gateway says that our own proof is gone: renew it now rather than in time.
    pub(crate) fn renew_actor(&self) {
        self.renew.notify_one();
    }

    /// A stream on it has turned out to be bulk.
    pub(crate) fn bulk_begins(&self) {
        self.bulk.fetch_add(1, Ordering::Relaxed);
    }

    /// Such a stream has ended.
    pub(crate) fn bulk_ends(&self) {
        self.bulk.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether there is such a stream now.
    pub(crate) fn carries_bulk(&self) -> bool {
        self.bulk.load(Ordering::Relaxed) > 0
    }

    fn told(&self) -> MutexGuard<'_, pb::DescribeResponse> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The gateway tells all of it.
    fn describes(&self, state: pb::DescribeResponse) {
        *self.told() = state;
    }

    /// The gateway tells what has become of the cluster.
    fn capacity_is(&self, capacity: pb::Capacity) {
        self.told().kubernetes = capacity.kubernetes;
    }

    fn status(&self) -> serde_json::Value {
        let told = self.told().clone();
        serde_json::json!({
            "id": self.id,
            "way": self.way,
            "for": match self.lane {
                Lane::Interactive => "any",
                Lane::Bulk => "bulk",
            },
            "address": self.address,
            "identity": self.identity,
            "up_seconds": self.since.elapsed().as_secs(),
            "rtt_ms": self.client.round_trip().map(|rtt| rtt.as_secs_f64() * 1000.0),
            "in_flight": self.client.in_flight(),
            "open": self.client.is_open(),
            "actor": told.actor,
            "actor_expires": told.actor_expires,
            "gateway": described(&told),
        })
    }
}

/// What a gateway tells of itself and its cluster, for `/statusz` and `gateway describe`.
pub(crate) fn described(state: &pb::DescribeResponse) -> serde_json::Value {
    let kubernetes = state.kubernetes.as_ref().map(|kubernetes| {
        let nodes = kubernetes.nodes.as_ref().map(|nodes| {
            let quantity =
                |quantity: &pb::Quantity| (quantity.resource.clone(), (quantity.milli as f64 / 1000.0).into());
            let allocatable: serde_json::Map<_, _> = nodes.allocatable.iter().map(quantity).collect();
            serde_json::json!({ "count": nodes.count, "ready": nodes.ready, "allocatable": allocatable })
        });
        serde_json::json!({ "version": kubernetes.version, "nodes": nodes })
    });
    serde_json::json!({ "version": state.version, "features": state.features, "kubernetes": kubernetes })
}

#[cfg(test)]
mod tests;
