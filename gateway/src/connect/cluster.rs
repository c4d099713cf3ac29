//! One cluster of the configuration, with everything that reaching it needs: files read, credentials opened, ways made.
//! What a reload leaves as it was is the very same as before, and so are the tunnels that use it.
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use daemon::{config::Loaded, process::Context};
use identity::{tls::Trust, token::Cache};
use proto::tunnel::budget::Budget;
use relay::{
    dial::{Dialer, ProxyConfig},
    sender::Sender,
};
use rustls::RootCertStore;

use super::{
    Config, StartError,
    actor::Actor,
    config::{ClusterConfig, WayConfig},
    metrics::ConnectMetrics,
    tunnels::Tunnels,
    way::{
        self, Opener, Relayed, Way,
        avoided::Avoided,
        candidate::{Candidate, Ways},
        follow::Follow,
        proof::Proof,
    },
};

/// How connections leave, whatever cluster they lead to.
#[derive(Debug, Clone)]
pub(super) struct Outer {
    trust: Trust,
    proxy: ProxyConfig,
    base: PathBuf,
    roots: RootCertStore,
    dialer: Dialer,
}

impl Outer {
    pub(super) fn open(config: &Config, base: &Path) -> Result<Self, StartError> {
        let roots = identity::tls::roots(&config.trust, base).map_err(StartError::Roots)?;
        let dialer = Dialer::open(&config.proxy, &config.trust, base).map_err(StartError::Proxy)?;
        Ok(Self { trust: config.trust.clone(), proxy: config.proxy.clone(), base: base.to_owned(), roots, dialer })
    }

    /// The files that were read.
    pub(super) fn files(&self) -> impl Iterator<Item = PathBuf> {
        self.trust.files.iter().map(|file| self.base.join(file))
    }

    /// Whether connections leave in the same way.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.trust == other.trust && self.proxy == other.proxy && self.roots.roots == other.roots.roots
    }
}

/// A cluster, ready to be reached.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(super) config: ClusterConfig,
    pub(super) actor: Actor,
    pub(crate) tunnels: Tunnels,
    pub(crate) ways: Ways,
    opener: Arc<Opener>,
}

/// Where a cluster's description comes from.
pub(super) struct Source<'a> {
    pub(super) outer: &'a Outer,
    /// Connections leave as they did for the cluster before.
    pub(super) same_outer: bool,
    pub(super) base: &'a Path,
    pub(super) context: &'a Context,
    pub(super) metrics: &'a ConnectMetrics,
    /// For what all tunnels hold.
    pub(super) budget: &'a Budget,
}

impl Cluster {
    /// Reads everything that the configuration of one cluster names. `old` is what it was before, if it was there.
    pub(super) fn read(
        name: &str,
        config: &ClusterConfig,
        source: &Source<'_>,
        old: Option<&Self>,
    ) -> Result<Self, StartError> {
        let cluster: Arc<str> = name.into();
        let kept =
            old.filter(|old| source.same_outer && old.config.trust == config.trust && old.config.token == config.token);
        let opener = match kept {
            Some(old) => Arc::clone(&old.opener),
            None => Arc::new(opener(&cluster, config, source)?),
        };
        let candidate = |way: &WayConfig| {
            let known = kept.and_then(|old| {
                let mut known = old.config.ways.iter().zip(old.ways.iter());
                known.find_map(|(config, candidate)| (config == way).then(|| Arc::clone(candidate)))
            });
            match known {
                Some(candidate) => Ok(candidate),
                None => {
                    let opened = open_way(way, name, source.base, source.context)?;
                    Ok(Arc::new(Candidate::new(Arc::clone(&opener), opened)))
                }
            }
        };
        let ways = config.ways.iter().map(candidate).collect::<Result<_, StartError>>()?;
        let tunnels = match old {
            Some(old) => old.tunnels.clone(),
            None => Tunnels::new(Arc::clone(&cluster), config.tunnels, source.metrics.cluster(&cluster)),
        };
        Ok(Self { config: config.clone(), actor: opener.actor.clone(), tunnels, ways, opener })
    }

    /// One cluster of a configuration, without holding tunnels to it.
    pub(crate) fn of(config: &Loaded<Config>, name: &str, context: &Context) -> Result<Option<Self>, StartError> {
        let Some(cluster) = config.values.clusters.get(name) else { return Ok(None) };
        let outer = Outer::open(&config.values, &config.base)?;
        let (metrics, budget) = (ConnectMetrics::default(), Budget::default());
        let source = Source {
            outer: &outer,
            same_outer: false,
            base: &config.base,
            context,
            metrics: &metrics,
            budget: &budget,
        };
        Self::read(name, cluster, &source, None).map(Some)
    }
}

fn opener(cluster: &Arc<str>, config: &ClusterConfig, source: &Source<'_>) -> Result<Opener, StartError> {
    let Source { outer, base, context, metrics, budget, .. } = source;
    let name = || cluster.to_string();
    let trust = base.join(&config.trust.file);
    Proof::read(&trust, cluster).map_err(|source| StartError::Trust { cluster: name(), source })?;
    let tokens =
        identity::token::source(&config.token, base).map_err(|source| StartError::Token { cluster: name(), source })?;
    let cache = Cache::new(tokens, Arc::clone(&context.clock), context.shutdown.clone());
    let audience = config.token.audience.clone().unwrap_or_else(|| format!("causeway://{cluster}"));
    let follow = if config.trust.follow {
        Follow::of(Arc::clone(cluster), trust.clone(), context.events.clone())
    } else {
        Follow::off()
    };
    Ok(Opener {
        cluster: Arc::clone(cluster),
        trust,
        roots: outer.roots.clone(),
        sender: Sender::new(outer.dialer.clone(), identity::tls::client(outer.roots.clone(), &[b"http/1.1"])),
        actor: Actor::new(cache, audience),
        clock: Arc::clone(&context.clock),
        budget: Budget::clone(budget),
        follow,
        mismatches: metrics.cluster(cluster).mismatches,
        events: context.events.clone(),
    })
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
