//! `gateway serve`: the gateway in the cluster. One port takes tunnels in ([`entry`]), each tunnel serves its calls
//! ([`session`]), each call is decided by the policy in force ([`enforced`]) and goes to a target ([`target`]) or tells
//! what this gateway is.
//!
//! It is ready when its config, keys and policy are loaded and its port is bound; it never waits for a peer (SD-15).

pub mod audit;
pub mod cluster;
pub mod config;
pub mod enforced;
pub mod entry;
pub mod gateway;
pub mod limits;
pub mod metrics;
mod port;
mod reload;
pub mod session;
pub mod target;

use std::{io, net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use daemon::{
    audit::Journal,
    config::Loaded,
    process::{Context, StartFailure},
};
use identity::{
    http_client::HttpError,
    jwt::{self, Authenticators},
    tls::TlsError,
};
use tokio::net::TcpListener;

pub use config::Config;

use crate::traces;

use self::{
    cluster::{Authority, ClientFiles, IdentityError, Shown},
    enforced::{Loader, PolicyError},
    gateway::Gateway,
    limits::Ledger,
    metrics::{CredentialLeft, Metrics},
    port::Port,
    reload::Follower,
    session::services::Services,
    target::{
        kubernetes::{Api, ApiError},
        manner::Manners,
        naming::Naming,
        pool,
        pools::Pools,
        resolve::Resolver,
    },
};
use crate::held;

/// It runs.
#[derive(Debug)]
pub struct Running {
    /// Bound addresses: the tunnel port.
    pub addresses: Vec<SocketAddr>,
}

/// Why it could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No valid policy.
    #[error("the policy is not usable")]
    Policy(#[from] PolicyError),
    /// The cluster's identity cannot be read or made.
    #[error("the cluster's identity is not usable")]
    Identity(#[from] IdentityError),
    /// The CA of a target cannot be read.
    #[error("the CAs of targets are not usable")]
    Targets(#[source] TlsError),
    /// The API server cannot be a target.
    #[error("the section `kubernetes` is not usable")]
    Kubernetes(#[from] ApiError),
    /// An authenticator cannot work.
    #[error("the authenticators are not usable")]
    Authenticators(#[from] jwt::StartError),
    /// The audit file cannot be written.
    #[error("the audit stream is not usable")]
    Audit(#[from] daemon::audit::OpenError),
    /// Spans cannot be exported.
    #[error("traces: cannot be exported")]
    Traces(#[source] HttpError),
    /// The port cannot be bound.
    #[error("{address} cannot be bound")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

impl StartFailure for StartError {
    fn is_bad_config(&self) -> bool {
        match self {
            Self::Policy(error) => !matches!(error, PolicyError::Watch(_)),
            Self::Authenticators(_)
            | Self::Targets(_)
            | Self::Kubernetes(_)
            | Self::Identity(IdentityError::ClientCa { .. })
            | Self::Traces(_) => true,
            Self::Identity(_) | Self::Audit(_) | Self::Bind { .. } => false,
        }
    }
}

/// Starts a gateway; its tasks belong to `context.shutdown`.
///
/// # Errors
/// When its config, keys or policy cannot be used, or its port cannot be bound. Nothing listens then.
pub async fn start(config: Loaded<Config>, context: Context) -> Result<Running, StartError> {
    let Loaded { values, base, path } = config.clone();
    let guard = context.readiness.guard("tunnel port");
    let journal = Journal::start(values.audit.as_ref(), &base, &context)?;
    let policies = enforced::start(Loader::new(&values, &base, &path), journal.clone(), &context)?;
    let tracer =
        traces::start(values.traces.as_ref(), "causeway-gateway", &base, &context).map_err(StartError::Traces)?;
    let manners = Manners::new(&values.targets, &base).map_err(StartError::Targets)?;
    let shown = Arc::new(show(&values, &base, &context)?);
    let clock = Arc::clone(&context.clock);
    let authenticators = Authenticators::start(&values.authenticators, &base, clock, &context.shutdown).await?;
    let kubernetes = values.kubernetes.as_ref();
    let kubernetes = kubernetes.map(|config| Api::start(config, &values.networks, &base, &context)).transpose()?;
    let address = values.listen.address;
    let listener = TcpListener::bind(address).await.map_err(|source| StartError::Bind { address, source })?;
    let address = listener.local_addr().map_err(|source| StartError::Bind { address, source })?;
    let buffers = values.limits.buffers;
    let ledger = Ledger::new(&values.limits);
    // Checked when the config was loaded.
    let naming = Naming::new(&values.identity_headers).unwrap_or_default();
    let gateway = Arc::new(Gateway {
        cluster: values.cluster,
        resolver: Resolver::new(&values.networks),
        networks: values.networks,
        limits: values.limits,
        authenticators,
        policies,
        journal: journal.clone(),
        shown: Arc::clone(&shown),
        ledger,
        naming,
        manners: ArcSwap::from_pointee(manners),
        kubernetes,
        sockets: ArcSwap::from_pointee(values.unix),
        pools: Pools::new(&context.workers),
        budget: held::budget(buffers, &context.metrics),
        metrics: Metrics::register(&context.metrics),
        tracer,
        context: context.clone(),
    });
    status(&gateway);
    let left = CredentialLeft { shown: Arc::clone(&shown), clock: Arc::clone(&context.clock) };
    context.metrics.register(|registry| registry.register_collector(Box::new(left)));
    let services = Arc::new(Services::start(&gateway).await);
    let port = Port::new(listener, values.listen, &gateway);
    context.shutdown.spawn(shown.keep_fresh(context.clone(), journal));
    context.shutdown.spawn(Follower::new(Arc::clone(&gateway), &config).run());
    context.shutdown.spawn(keep_swept(Arc::clone(&gateway)));
    context.shutdown.spawn(port.serve(gateway, services));
    tracing::info!(what = "tunnel", %address, "listening");
    guard.ready();
    Ok(Running { addresses: vec![address] })
}

fn show(values: &Config, base: &std::path::Path, context: &Context) -> Result<Shown, StartError> {
    let authority = Authority::open(&base.join(&values.identity.directory), &values.cluster)?;
    let clients = ClientFiles::new(&values.listen, base);
    Ok(Shown::new(authority, values.listen.names.clone(), clients, context.clock.now())?)
}

/// What `/statusz` shows: numbers and rule names, no principals.
fn status(gateway: &Arc<Gateway>) {
    let shown = Arc::downgrade(gateway);
    gateway.context.status.section("gateway", move || {
        let Some(gateway) = shown.upgrade() else { return serde_json::Value::Null };
        let policy = Arc::clone(&gateway.policies.borrow());
        let break_glass: Vec<_> = policy
            .rules()
            .iter()
            .filter(|rule| rule.break_glass().is_some_and(|glass| glass.until > gateway.context.clock.now()))
            .map(|rule| rule.name().to_string())
            .collect();
        serde_json::json!({
            "cluster": gateway.cluster,
            "tunnels": gateway.metrics.tunnels_opened.get() - gateway.metrics.tunnels_closed.get(),
            "rules": policy.rules().len(),
            "suspended": policy.is_suspended(),
            "break_glass": break_glass,
        })
    });
}

/// Closes connections that have been idle for too long, and all of them when draining begins.
async fn keep_swept(gateway: Arc<Gateway>) {
    loop {
        tokio::select! {
            biased;
            () = gateway.context.shutdown.draining() => {
                return gateway.pools.all().for_each(|pools| {
                    pools.shared.clear();
                    pools.single.clear();
                });
            }
            () = tokio::time::sleep(pool::SWEEP) => {
                gateway.pools.all().for_each(|pools| {
                    pools.shared.sweep();
                    pools.single.sweep();
                });
            }
        }
    }
}
