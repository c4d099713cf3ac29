//! `gateway connect`: the connector. It holds tunnels to clusters and offers local ports that lead to targets in them.
//!
//! Everything is read and checked before a port opens; ports open before anything is dialled, so that nobody depends on
//! who starts first. A request that comes while no tunnel is up waits for a bounded time. The file is followed while it
//! runs (`reload`); at start and later the same code puts it in force (`in_force`).
mod access;
pub(crate) mod actor;
mod bulk;
mod cluster;
mod clusters;
pub mod config;
pub(crate) mod face;
#[cfg(test)]
mod fake;
mod in_force;
pub mod metrics;
pub mod place;
mod reload;
pub(crate) mod stream_id;
pub mod target;
pub(crate) mod tunnels;
pub mod way;

use std::{io, net::SocketAddr, sync::Arc};

use daemon::{
    config::{ConfigError, Loaded},
    process::{Context, StartFailure},
};
use identity::{http_client::HttpError, tls::TlsError, token::TokenError};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::cluster::Cluster;
pub use self::config::Config;
use self::{
    clusters::Clusters,
    face::{Ground, kubernetes::authority::AuthorityError},
    in_force::{Faces, InForce},
    metrics::{ConnectMetrics, CredentialLeft},
    place::{Place, PlaceError},
    reload::{Configuration, Follower},
    tunnels::Tunnels,
    way::proof::ProofError,
};
use crate::traces;

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
    faces: Faces,
    configuration: Arc<Configuration>,
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
    /// Spans cannot be exported.
    #[error("traces: cannot be exported")]
    Traces(#[source] HttpError),
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
    let metrics = ConnectMetrics::register(&context.metrics);
    let budget = crate::held::budget(config.values.limits.buffers, &context.metrics);
    let connections = TaskTracker::new();
    let tracer = traces::start(config.values.traces.as_ref(), "causeway-connector", &config.base, &context)
        .map_err(StartError::Traces)?;
    let ground = Ground {
        authority: None,
        clusters: Clusters::new([], metrics.clone()),
        tracer,
        clock: Arc::clone(&context.clock),
        shutdown: context.shutdown.clone(),
        connections: connections.clone(),
        workers: context.workers.clone(),
        clients: context.workers.spread(),
    };
    let left = CredentialLeft { clusters: ground.clusters.clone(), clock: Arc::clone(&context.clock) };
    context.metrics.register(|registry| registry.register_collector(Box::new(left)));
    let stop = CancellationToken::new();
    let mut in_force = InForce::new(ground, context.clone(), metrics, budget, stop.clone());
    let prepared = in_force.prepare(&config).await?;
    in_force.take_over(prepared);
    let configuration = Arc::<Configuration>::default();
    let state = Arc::new(State {
        clusters: in_force.ground.clusters.clone(),
        faces: Arc::clone(&in_force.shown),
        configuration: Arc::clone(&configuration),
    });
    let addresses = state.faces.load().iter().filter_map(|face| face.address.port()).collect();
    context.shutdown.spawn(stop_last(context.clone(), connections, stop));
    let follower = Follower { in_force, context: context.clone(), path: config.path, configuration };
    context.shutdown.spawn(follower.run());
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
    let asked = Arc::clone(state);
    context.readiness.one_of("cluster", move |name| {
        let tunnels = asked.clusters.tunnels(name)?;
        Some(if tunnels.up() > 0 { Ok(()) } else { Err(tunnels.absence("")) })
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
        let faces: Vec<_> = self.faces.load().iter().map(|face| face.status()).collect();
        let clusters: Vec<_> = self.clusters.all().iter().map(Tunnels::status).collect();
        let configuration = self.configuration.shown();
        serde_json::json!({ "clusters": clusters, "faces": faces, "configuration": configuration })
    }
}

#[cfg(test)]
mod tests;
