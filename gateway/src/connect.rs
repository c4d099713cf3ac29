//! `gateway connect`: the connector. It holds tunnels to clusters and offers local ports that lead to targets in them.
//!
//! Everything is read and checked before a port opens; ports open before anything is dialled, so that nobody depends on
//! who starts first. A request that comes while no tunnel is up waits for a bounded time.
mod access;
pub(crate) mod actor;
mod bulk;
mod clusters;
pub mod config;
pub(crate) mod face;
#[cfg(test)]
mod fake;
mod metrics;
pub mod place;
pub(crate) mod stream_id;
pub mod target;
pub(crate) mod tunnels;
pub mod way;

use std::{collections::BTreeMap, io, net::SocketAddr, path::Path, sync::Arc};

use daemon::{
    config::{ConfigError, Loaded},
    process::{Context, StartFailure},
    workers::Spread,
};
use identity::{
    tls::TlsError,
    token::{Cache, TokenError},
};
use proto::tunnel::budget::Budget;
use relay::{dial::Dialer, sender::Sender};
use rustls::RootCertStore;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::config::Config;
use self::{
    actor::Actor,
    clusters::Clusters,
    config::{ClusterConfig, WayConfig},
    face::{
        Bound, Face, Ground, Login,
        kubernetes::authority::{self, AuthorityError},
    },
    metrics::ConnectMetrics,
    place::{Place, PlaceError},
    tunnels::{
        Tunnels,
        keep::{Care, keep},
    },
    way::{
        Opener, Relayed, Way,
        avoided::Avoided,
        candidate::{Candidate, Ways},
        follow::Follow,
        proof::{Proof, ProofError},
    },
};

/// A running connector.
#[derive(Debug)]
pub struct Running {
    /// Bound addresses of the faces, in the order of the file; Unix sockets have none.
    pub addresses: Vec<SocketAddr>,
    state: Arc<State>,
}

/// What is told about a running connector.
#[derive(Debug)]
struct State {
    clusters: Clusters,
    faces: Vec<Arc<Face>>,
}

/// Why a connector could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The roots of outer TLS sessions cannot be used.
    #[error("trust: cannot be used")]
    Roots(#[source] TlsError),
    /// The proxy cannot be used.
    #[error("the connector's proxy cannot be used")]
    Proxy(#[source] ConfigError),
    /// A cluster's trust file cannot be used.
    #[error("clusters.{cluster}.trust.file: cannot be used; fetch it with `gateway trust export`")]
    Trust {
        /// Which cluster.
        cluster: String,
        /// What is wrong with it.
        #[source]
        source: ProofError,
    },
    /// A hybrid connection's credential cannot be used.
    #[error("clusters.{cluster}.ways: the credential cannot be used")]
    Credential {
        /// Which cluster.
        cluster: String,
        /// What is wrong with it.
        #[source]
        source: ConfigError,
    },
    /// The source of the connector's own token cannot be used.
    #[error("clusters.{cluster}.token: cannot be used")]
    Token {
        /// Which cluster.
        cluster: String,
        /// What is wrong with it.
        #[source]
        source: TokenError,
    },
    /// A way's address cannot be used, though it was accepted when the file was read.
    #[error("clusters.{cluster}.ways: {message}")]
    Way {
        /// Which cluster.
        cluster: String,
        /// What is wrong with it.
        message: String,
    },
    /// A face's socket has a path that cannot be used.
    #[error("faces: {place} cannot be used")]
    Place {
        /// Which place.
        place: Place,
        /// Why not.
        #[source]
        source: PlaceError,
    },
    /// A face's password cannot be used.
    #[error("faces: the password of a login cannot be used")]
    Login(#[source] ConfigError),
    /// The CA of Kubernetes faces cannot be used.
    #[error("state: the CA of Kubernetes faces cannot be used")]
    Authority(#[source] AuthorityError),
    /// A face's place cannot be bound.
    #[error("faces: {place} cannot be bound")]
    Bind {
        /// Which place.
        place: Place,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl StartFailure for StartError {
    fn is_bad_config(&self) -> bool {
        !matches!(self, Self::Bind { .. })
    }
}

/// Starts a connector; its tasks belong to `context.shutdown`.
///
/// # Errors
/// A file that the configuration names cannot be used, or a port cannot be bound. Whether a cluster can be reached is
/// not awaited: `/readyz` tells.
pub async fn start(config: Loaded<Config>, context: Context) -> Result<Running, StartError> {
    let Loaded { values, base, .. } = config;
    let roots = identity::tls::roots(&values.trust, &base).map_err(StartError::Roots)?;
    let dialer = Dialer::open(&values.proxy, &values.trust, &base).map_err(StartError::Proxy)?;
    let metrics = ConnectMetrics::register(&context.metrics);
    let budget = crate::held::budget(values.limits.buffers, &context.metrics);
    let mut clusters = BTreeMap::new();
    for (name, config) in &values.clusters {
        let shared = (&roots, &dialer, &budget);
        clusters.insert(name.as_str(), Cluster::read(name, config, shared, &base, &context, &metrics)?);
    }
    let connections = TaskTracker::new();
    let known = clusters.values().map(|cluster| cluster.tunnels.clone());
    let any = values.faces.iter().any(|face| face.kubernetes.is_some());
    let authority = any.then(|| authority::open(&base.join(&values.state), context.clock.now())).transpose();
    let authority = authority.map_err(StartError::Authority)?;
    let ground = Ground {
        authority: authority.map(Arc::new),
        clusters: Clusters::new(known, metrics),
        clock: Arc::clone(&context.clock),
        shutdown: context.shutdown.clone(),
        connections: connections.clone(),
        workers: context.workers.clone(),
        clients: context.workers.spread(),
    };
    let mut bound = Vec::with_capacity(values.faces.len());
    for face in &values.faces {
        // Checked when the file was read.
        let Some((kind, place)) = face.place() else { continue };
        let place = place.below(&base).map_err(|source| StartError::Place { place: place.clone(), source })?;
        let listener = face::bind(&place).await.map_err(|source| StartError::Bind { place, source })?;
        let login = face.login.as_ref().map(|login| Login::open(login, &base));
        let login = login.transpose().map_err(StartError::Login)?;
        bound.push(Bound::new(face, kind, Arc::new(listener), login, &ground));
    }
    let faces: Vec<_> = bound.iter().map(|bound| Arc::clone(&bound.face)).collect();
    let addresses = faces.iter().filter_map(|face| face.address.port()).collect();
    let state = Arc::new(State { clusters: ground.clusters, faces });

    for port in bound {
        context.shutdown.spawn(connections.track_future(port.serve()));
    }
    let stop = CancellationToken::new();
    let places = context.workers.spread();
    for cluster in clusters.into_values() {
        cluster.keep(&context, &places, &stop);
    }
    context.shutdown.spawn(stop_last(context.clone(), connections, stop));
    tell(&state, &context);
    Ok(Running { addresses, state })
}

/// Tunnels outlive the faces: they stop when the last connection of a face has ended.
async fn stop_last(context: Context, connections: TaskTracker, stop: CancellationToken) {
    context.shutdown.draining().await;
    connections.close();
    tokio::select! {
        biased;
        () = context.shutdown.forced() => {}
        () = connections.wait() => {}
    }
    stop.cancel();
}

/// Readiness and status: this process can do its part while at least one cluster can be reached (SD-15).
fn tell(state: &Arc<State>, context: &Context) {
    let reachable = Arc::clone(state);
    context.readiness.check("cluster", move || {
        let any = reachable.clusters.all().iter().any(|cluster| cluster.up() > 0);
        any.then_some(()).ok_or_else(|| "no cluster can be reached".to_owned())
    });
    let shown = Arc::clone(state);
    context.status.section("connector", move || shown.status());
}

impl Running {
    /// What `/statusz` shows: clusters with their ways and tunnels, and faces.
    pub fn status(&self) -> serde_json::Value {
        self.state.status()
    }
}

impl State {
    fn status(&self) -> serde_json::Value {
        let faces: Vec<_> = self.faces.iter().map(|face| face.status()).collect();
        let clusters: Vec<_> = self.clusters.all().iter().map(Tunnels::status).collect();
        serde_json::json!({ "clusters": clusters, "faces": faces })
    }
}

/// A cluster, ready to be reached.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) tunnels: Tunnels,
    pub(crate) ways: Ways,
    actor: Actor,
    wanted: usize,
}

impl Cluster {
    /// Reads everything that the configuration of one cluster names.
    fn read(
        name: &str,
        config: &ClusterConfig,
        (roots, dialer, budget): (&RootCertStore, &Dialer, &Budget),
        base: &Path,
        context: &Context,
        metrics: &ConnectMetrics,
    ) -> Result<Self, StartError> {
        let cluster: Arc<str> = name.into();
        let trust = base.join(&config.trust.file);
        Proof::read(&trust, name).map_err(|source| StartError::Trust { cluster: name.to_owned(), source })?;
        let source = identity::token::source(&config.token, base)
            .map_err(|source| StartError::Token { cluster: name.to_owned(), source })?;
        let cache = Cache::new(source, Arc::clone(&context.clock), context.shutdown.clone());
        let audience = config.token.audience.clone().unwrap_or_else(|| format!("causeway://{name}"));
        let actor = Actor::new(cache, audience);
        let metrics = metrics.cluster(&cluster);
        let follow = if config.trust.follow {
            Follow::of(Arc::clone(&cluster), trust.clone(), context.events.clone())
        } else {
            Follow::off()
        };
        let opener = Arc::new(Opener {
            cluster: Arc::clone(&cluster),
            trust,
            follow,
            roots: roots.clone(),
            sender: Sender::new(dialer.clone(), identity::tls::client(roots.clone(), &[b"http/1.1"])),
            actor: actor.clone(),
            clock: Arc::clone(&context.clock),
            budget: budget.clone(),
            mismatches: metrics.mismatches.clone(),
            events: context.events.clone(),
        });
        let candidate = |way| Ok(Arc::new(Candidate::new(Arc::clone(&opener), open_way(way, name, base, context)?)));
        let ways = config.ways.iter().map(candidate).collect::<Result<_, _>>()?;
        let tunnels = Tunnels::new(Arc::clone(&cluster), config.tunnels, metrics);
        Ok(Self { tunnels, ways, actor, wanted: config.tunnels })
    }

    /// One cluster of a configuration, without holding tunnels to it.
    pub(crate) fn of(config: &Loaded<Config>, name: &str, context: &Context) -> Result<Option<Self>, StartError> {
        let Some(cluster) = config.values.clusters.get(name) else { return Ok(None) };
        let roots = identity::tls::roots(&config.values.trust, &config.base).map_err(StartError::Roots)?;
        let dialer =
            Dialer::open(&config.values.proxy, &config.values.trust, &config.base).map_err(StartError::Proxy)?;
        let shared = (&roots, &dialer, &Budget::default());
        Self::read(name, cluster, shared, &config.base, context, &ConnectMetrics::default()).map(Some)
    }

    /// Each tunnel stays with one worker, those of one cluster on different ones.
    fn keep(self, context: &Context, places: &Spread, stop: &CancellationToken) {
        let Self { tunnels, ways, actor, wanted } = self;
        let (_, ways) = watch::channel(ways);
        let interactive = std::iter::repeat_n(tunnels.clone(), wanted);
        for tunnels in interactive.chain([tunnels.for_bulk()]) {
            let care = Care {
                tunnels: tunnels.clone(),
                actor: actor.clone(),
                clock: Arc::clone(&context.clock),
                shutdown: context.shutdown.clone(),
                stop: stop.clone(),
            };
            let (place, ways) = (places.place(|_| true), ways.clone());
            context.workers.spawn(place.worker(), &context.shutdown, async move {
                tokio::select! {
                    biased;
                    () = care.stop.cancelled() => {}
                    () = care.shutdown.forced() => {}
                    () = tunnels.wanted() => keep(care, ways).await,
                }
                drop(place);
            });
        }
    }
}

fn open_way(way: &WayConfig, cluster: &str, base: &Path, context: &Context) -> Result<Way, StartError> {
    let cluster = || cluster.to_owned();
    let Some(url) = &way.direct else {
        let opened = way.access().open(base, context);
        let (address, credential) = opened.map_err(|source| StartError::Credential { cluster: cluster(), source })?;
        return Ok(Way::HybridConnection(Relayed { address, credential, avoided: Avoided::default() }));
    };
    url.parse()
        .map(Way::Direct)
        .map_err(|error: way::DirectUrlError| StartError::Way { cluster: cluster(), message: error.to_string() })
}

#[cfg(test)]
mod tests;
