//! `relay serve`: the rendezvous server, wire-compatible with Azure Relay Hybrid Connections.
//!
//! Life of a WebSocket sender: accepted and counted (`door`), its request read (`route`), its token checked (`authorize`)
//! before anything is said about the entity, a listener found (`meet`, `rendezvous`), and joined with it (`connect`,
//! [`crate::splice`]). An HTTP sender's requests go the same way to `http`, one by one. A listener is a control channel
//! (`control`) and, for each sender or large request, one dial of its own (`accept`). Refusals are listed in `refusal`.
//!
//! The relay never waits for a peer to become ready, keeps nothing on disk, and reads no payload.
mod accept;
mod access;
mod authorize;
mod body;
mod config;
mod connect;
mod control;
mod describe;
mod door;
mod entities;
mod events;
mod fields;
mod http;
mod listeners;
mod meet;
mod metrics;
mod plan;
mod rate;
mod record;
pub mod refusal;
mod reload;
mod rendezvous;
mod route;
mod seen;
mod share;
mod sources;
mod stay;
mod storm;
mod turns;
mod upgrade;

use std::{collections::BTreeSet, io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use daemon::{
    clock::{SharedClock, timestamp},
    config::{ConfigError, Loaded},
    process::{Context, StartFailure},
    shutdown::Shutdown,
};
use identity::{
    jwt::Authenticators,
    tls::{ServerTls, TlsError},
};
use tokio::net::TcpListener;
use tracing::info;

pub use self::config::{
    Config, EntityConfig, EntityLimits, GrantConfig, Http, Kind, Limits, Listen, Right, RuleConfig, Tokens, WhoConfig,
};
pub(crate) use self::{
    config::{Written, check_name, folder, written},
    sources::counted,
};
use self::{
    entities::{Ground, Namespace},
    events::Teller,
    listeners::Listener,
    metrics::RelayMetrics,
    plan::Plan,
    reload::{Configuration, Follower},
    rendezvous::Table,
    share::{Share, WaitingRoom},
    sources::Sources,
    storm::Offenders,
};
use crate::splice::Buffers;

/// ALPN of the relay: WebSocket upgrades need HTTP/1.1, and senders of HTTP/1.0 name their version too.
const ALPN: &[&[u8]] = &[b"http/1.1", b"http/1.0"];

/// A running relay.
#[derive(Debug)]
pub struct Running {
    /// Bound addresses, in the order of `listen:`.
    pub addresses: Vec<SocketAddr>,
}

/// Why it could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A key cannot be read or is too weak.
    #[error("the relay's configuration cannot be used")]
    Config(#[from] ConfigError),
    /// A certificate or its key cannot be used.
    #[error("the relay's certificate cannot be used")]
    Tls(#[from] TlsError),
    /// An authenticator cannot work.
    #[error("the relay's authenticators cannot be used")]
    Authenticators(#[from] identity::jwt::StartError),
    /// A port is taken, or not ours.
    #[error("relay port {address} cannot be bound")]
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
            Self::Config(_) | Self::Tls(_) | Self::Authenticators(_) => true,
            Self::Bind { .. } => false,
        }
    }
}

/// What all connections of one relay share.
#[derive(Debug)]
pub(crate) struct Relay {
    /// Replaced as a whole on reload; whoever holds an older one goes on with it.
    namespace: ArcSwap<Namespace>,
    table: Table,
    /// Senders that wait for listeners, of all entities.
    waiting: WaitingRoom,
    /// Connections of HTTP senders that may go on after an answer.
    kept: Share,
    /// Memory for bytes in flight; each entity has a share.
    buffers: Buffers,
    accept_timeout: Duration,
    clock: SharedClock,
    configuration: Configuration,
    teller: Teller,
    offenders: Offenders,
    shutdown: Shutdown,
    metrics: RelayMetrics,
}

impl Relay {
    /// What is served now.
    pub(crate) fn namespace(&self) -> Arc<Namespace> {
        self.namespace.load_full()
    }
}

/// What these files would serve, keys read, one line each.
#[cfg(test)]
pub(crate) fn plan_of_files(loaded: &Loaded<Config>) -> Result<Vec<String>, ConfigError> {
    let plan = Plan::read(loaded, &mut BTreeSet::new())?;
    let line = |planned: &plan::Planned| {
        let rights = |rule: &str| format!("{rule} {:?}", planned.config.rules[rule].rights).to_lowercase();
        let rules: Vec<_> = planned.config.rules.keys().map(|rule| rights(rule)).collect();
        format!("{}: {}", planned.name, rules.join(", "))
    };
    Ok(plan.entities.values().map(line).collect())
}

/// Starts a relay; its tasks belong to `context.shutdown`.
pub async fn start(config: Loaded<Config>, context: Context) -> Result<Running, StartError> {
    let guard = context.readiness.guard("relay");
    let Loaded { values, base, path } = &config;
    let metrics = RelayMetrics::register(&context.metrics);
    let buffers = Buffers::new(usize::try_from(values.limits.buffer_memory.0).unwrap_or(usize::MAX));
    let (clock, shutdown) = (context.clock.clone(), &context.shutdown);
    let authenticators = Arc::new(Authenticators::start(&values.authenticators, base, clock, shutdown).await?);
    let mut places = BTreeSet::new();
    let plan = Plan::read(&config, &mut places)?;
    let ground = Ground { generation: 1, authenticators, metrics: &metrics, buffers: &buffers };
    let namespace = Namespace::build(&plan, &values.namespace, &ground, None);
    let relay = Arc::new(Relay {
        namespace: ArcSwap::from_pointee(namespace),
        table: Table::default(),
        waiting: WaitingRoom::new("limits.rendezvous", values.limits.rendezvous),
        kept: Share::new("connections kept", turns::KEPT_MAX),
        buffers,
        accept_timeout: values.limits.accept_timeout.0,
        clock: context.clock.clone(),
        configuration: Configuration::new(path, 1, context.clock.now()),
        teller: Teller::new(&context.events),
        offenders: Offenders::default(),
        shutdown: context.shutdown.clone(),
        metrics,
    });
    let sources = Sources::new(&values.limits);
    let mut doors = Vec::new();
    for listen in &values.listen {
        let tls = match &listen.tls {
            Some(files) => Some(ServerTls::start(files, base, ALPN, &context.shutdown)?),
            None => None,
        };
        let bound =
            async { TcpListener::bind(listen.address).await.and_then(|bound| Ok((bound.local_addr()?, bound))) };
        let (address, listener) = bound.await.map_err(|source| StartError::Bind { address: listen.address, source })?;
        doors.push((address, door::Door { listener, tls, sources: sources.clone(), relay: relay.clone() }));
    }
    let mut addresses = Vec::new();
    for (address, door) in doors {
        info!(what = "relay", %address, tls = door.tls.is_some(), "listening");
        addresses.push(address);
        context.shutdown.spawn(door.run());
    }
    show(&context, &relay);
    let follower = Follower { relay, context: context.clone(), started: config, plan, places };
    context.shutdown.spawn(follower.run());
    guard.ready();
    Ok(Running { addresses })
}

fn show(context: &Context, relay: &Arc<Relay>) {
    let relay = Arc::downgrade(relay);
    context.status.section("relay", move || {
        let Some(relay) = relay.upgrade() else { return serde_json::Value::Null };
        let namespace = relay.namespace();
        let entities: serde_json::Map<String, serde_json::Value> = namespace
            .entities()
            .map(|entity| {
                let listeners: Vec<_> = entity.listeners.live().iter().map(|listener| shown(listener)).collect();
                let senders = entity.metrics.senders.get();
                (entity.name.clone(), serde_json::json!({ "listeners": listeners, "senders": senders }))
            })
            .collect();
        serde_json::json!({
            "namespace": namespace.host,
            "configuration": relay.configuration.shown(),
            "waiting_senders": relay.table.len(),
            "buffer_memory": relay.buffers.used(),
            "entities": entities,
        })
    });
}

fn shown(listener: &Listener) -> serde_json::Value {
    let record = &listener.record;
    serde_json::json!({
        "id": listener.id,
        "peer": listener.remote.to_string(),
        "since": timestamp(record.since),
        "holder": record.holder,
        "given": record.given(),
        "failed": record.failed(),
        "answers": !record.is_unresponsive(),
    })
}
