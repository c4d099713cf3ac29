//! Follows the gateway's file, and the CAs of targets that it names: `targets` and `unix` count for requests that come
//! after a change. What else changes is named in the log and needs a restart; the policy, keys and the identity have
//! followers of their own. A file that cannot be used changes nothing; log and event say file, line and key.
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use daemon::{
    config::{ConfigError, Loaded, Overrides, load_again},
    process::explain,
    watch::Places,
};
use identity::tls::TlsError;

use super::{
    config::{Config, TargetConfig},
    gateway::Gateway,
    target::manner::Manners,
};

/// Follows the file of one gateway.
#[derive(Debug)]
pub(super) struct Follower {
    gateway: Arc<Gateway>,
    path: PathBuf,
    base: PathBuf,
    targets: Vec<TargetConfig>,
    /// The keys that count from start to end, as they were at start.
    fixed: Vec<(&'static str, String)>,
    /// What was said last, so that nothing is said twice.
    complaint: Option<String>,
}

/// Why a change cannot be put in force.
#[derive(Debug, thiserror::Error)]
enum ChangeError {
    #[error(transparent)]
    File(#[from] ConfigError),
    #[error("the CAs of targets are not usable")]
    Targets(#[source] TlsError),
}

/// What one reading came to.
struct Reading {
    config: Config,
    manners: Manners,
}

impl Reading {
    /// Waits for the disk.
    fn take(path: &Path, overrides: &Overrides) -> Result<Self, ChangeError> {
        let Loaded { values: config, base, .. } = load_again::<Config>(path, overrides)?;
        let manners = Manners::new(&config.targets, &base).map_err(ChangeError::Targets)?;
        Ok(Self { config, manners })
    }
}

/// The keys that need a restart. Secrets are references in them, never values.
fn fixed(config: &Config) -> Vec<(&'static str, String)> {
    vec![
        ("cluster", config.cluster.clone()),
        ("listen", format!("{:?}", config.listen)),
        ("identity", format!("{:?}", config.identity)),
        ("networks", format!("{:?}", config.networks)),
        ("authenticators", format!("{:?}", config.authenticators)),
        ("policy", format!("{:?}", config.policy)),
        ("deny", format!("{:?}", config.deny)),
        ("identity_headers", format!("{:?}", config.identity_headers)),
        ("kubernetes", format!("{:?}", config.kubernetes)),
        ("audit", format!("{:?}", config.audit)),
        ("limits", format!("{:?}", config.limits)),
    ]
}

impl Follower {
    /// `config` is what the gateway was started with.
    pub(super) fn new(gateway: Arc<Gateway>, config: &Loaded<Config>) -> Self {
        Self {
            gateway,
            path: config.path.clone(),
            base: config.base.clone(),
            targets: config.values.targets.clone(),
            fixed: fixed(&config.values),
            complaint: None,
        }
    }

    /// Until the gateway drains.
    pub(super) async fn run(mut self) {
        let mut places = match Places::start() {
            Ok(places) => places,
            Err(error) => return tracing::error!(%error, "the configuration file is not followed"),
        };
        let drain = self.gateway.context.shutdown.drain_token();
        loop {
            let cas = self.targets.iter().filter_map(|target| target.tls.as_ref()?.ca.as_ref());
            let mut followed: BTreeSet<_> = cas.map(|ca| self.base.join(ca)).collect();
            followed.insert(self.path.clone());
            places.follow(followed);
            tokio::select! {
                biased;
                () = drain.cancelled() => return,
                () = places.changed() => {}
            }
            let (path, overrides) = (self.path.clone(), self.gateway.context.overrides.clone());
            match tokio::task::spawn_blocking(move || Reading::take(&path, &overrides)).await {
                Ok(Ok(reading)) => self.take_over(reading),
                Ok(Err(error)) => self.complain(&error),
                Err(error) => tracing::error!(%error, "the configuration file could not be read"),
            }
        }
    }

    fn take_over(&mut self, Reading { config, manners }: Reading) {
        let gateway = &self.gateway;
        // The CAs may have changed although their names did not.
        let targets = self.targets != config.targets || !gateway.manners.load().trusts_as(&manners);
        let sockets = **gateway.sockets.load() != config.unix;
        if targets {
            gateway.manners.store(Arc::new(manners));
        }
        if sockets {
            gateway.sockets.store(Arc::new(config.unix.clone()));
        }
        let differs = |(old, new): (&(&'static str, String), (&'static str, String))| (old.1 != new.1).then_some(new.0);
        let restart: Vec<_> = self.fixed.iter().zip(fixed(&config)).filter_map(differs).collect();
        if targets || sockets {
            tracing::info!(target: "audit", targets, unix = sockets, "configuration in force");
        }
        let complaint = (!restart.is_empty()).then(|| restart.join(", "));
        if complaint != self.complaint
            && let Some(keys) = &complaint
        {
            tracing::warn!(target: "audit", %keys, "these changes need a restart of the gateway");
        }
        (self.targets, self.complaint) = (config.targets, complaint);
    }

    fn complain(&mut self, error: &ChangeError) {
        let problem = explain(error);
        if self.complaint.as_ref() != Some(&problem) {
            tracing::error!(target: "audit", problem, "configuration changed and cannot be used: what is in force stays");
            self.gateway.context.events.emit("config_refused", [("problem", problem.as_str().into())]);
            self.complaint = Some(problem);
        }
    }
}
