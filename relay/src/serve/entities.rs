//! The namespace: its hybrid connections, found by path, each with its rules, listeners, senders and counters.
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    path::Path,
    sync::Arc,
};

use arc_swap::ArcSwap;
use daemon::config::{ConfigError, Ranges};
use identity::{jwt::Authenticators, sas::Rule};
use proto::hybrid::address::segments;
use tokio_util::sync::CancellationToken;

use super::{
    authorize::Permits,
    config::{Config, EntityConfig, GrantConfig, RuleConfig, rights},
    listeners::Listeners,
    metrics::{EntityMetrics, RelayMetrics},
    rate::Rate,
    seen::Seen,
    share::Share,
    stay::Guests,
};
use crate::splice::{Buffers, Pace};

/// What one relay serves.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// Host name, without port.
    pub(crate) host: String,
    /// What counts where there is no entity.
    pub(crate) permits: Permits,
    entities: HashMap<Vec<String>, Arc<Entity>>,
    /// Most segments that a name has.
    deepest: usize,
}

/// One hybrid connection, for as long as one of its name is configured.
#[derive(Debug)]
pub(crate) struct Entity {
    /// Name as configured: the only form that logs and metric labels show.
    pub(crate) name: String,
    settings: ArcSwap<Settings>,
    /// Cancelled when it is removed or disabled.
    pub(crate) closed: CancellationToken,
    /// Who is inside.
    pub(crate) guests: Guests,
    /// Who listens.
    pub(crate) listeners: Arc<Listeners>,
    /// Senders, waiting or joined.
    pub(crate) senders: Share,
    /// How often senders come.
    pub(crate) requests: Rate,
    /// Shared rate, if limited.
    pub(crate) pace: Option<Pace>,
    /// Its share of the memory for bytes in flight.
    pub(crate) buffers: Buffers,
    /// From where its listeners came.
    pub(crate) seen: Seen,
    /// Its counters.
    pub(crate) metrics: EntityMetrics,
}

/// What a reload exchanges as a whole.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Who may do what.
    pub(crate) permits: Permits,
    /// Senders need no token.
    pub(crate) anonymous_senders: bool,
    /// Where listeners may come from; empty is anywhere.
    pub(crate) listeners_from: Ranges,
}

impl Settings {
    /// Whether a listener may come from there.
    pub(crate) fn may_listen_from(&self, peer: IpAddr) -> bool {
        self.listeners_from.is_empty() || self.listeners_from.contains(peer)
    }
}

impl Namespace {
    /// Reads keys; weak ones are refused.
    pub(crate) fn open(
        config: &Config,
        base: &Path,
        path: &Path,
        authenticators: &Arc<Authenticators>,
        metrics: &RelayMetrics,
        buffers: &Buffers,
    ) -> Result<Self, ConfigError> {
        let keys = Keys { base, path };
        let rules = keys.rules("rules", &config.rules)?;
        let permits = |entity_rules: Vec<Arc<Rule>>, grants: &[GrantConfig]| Permits {
            generation: 0,
            rules: entity_rules.into_iter().chain(rules.iter().cloned()).collect(),
            grants: grants.iter().chain(&config.grants).cloned().map(Arc::new).collect(),
            authenticators: authenticators.clone(),
            max_life: config.tokens.max_life.0,
            grace: config.tokens.grace.0,
        };
        let mut entities = HashMap::new();
        for (name, entity) in &config.entities {
            let own = keys.rules(&format!("entities.{name}.rules"), &entity.rules)?;
            let settings = Settings {
                permits: permits(own, &entity.grants),
                anonymous_senders: entity.anonymous_senders,
                listeners_from: entity.listeners_from.clone(),
            };
            let opened = Entity::open(name, settings, entity, metrics, buffers);
            if entities.insert(segments(name), Arc::new(opened)).is_some() {
                let message = "is there twice: names are compared without regard to case".to_owned();
                return Err(ConfigError::Invalid { path: path.to_owned(), key: format!("entities.{name}"), message });
            }
        }
        let deepest = entities.keys().map(Vec::len).max().unwrap_or_default();
        Ok(Self { host: config.namespace.clone(), permits: permits(Vec::new(), &[]), entities, deepest })
    }

    /// The hybrid connection that a path begins with; the longest name wins.
    pub(crate) fn find(&self, path: &str) -> Option<&Arc<Entity>> {
        let segments = compared(path);
        (1..=self.deepest.min(segments.len())).rev().find_map(|length| self.entities.get(&segments[..length]))
    }

    /// All hybrid connections, in no order.
    pub(crate) fn entities(&self) -> impl Iterator<Item = &Arc<Entity>> {
        self.entities.values()
    }
}

/// The segments of a path as both the choice of an entity and the check of a token see them: empty ones do not count, and
/// an encoded slash separates. Two views would let a token for one entity open another.
pub(crate) fn compared(path: &str) -> Vec<String> {
    let segments = segments(path);
    segments.iter().flat_map(|segment| segment.split('/')).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

impl Entity {
    fn open(name: &str, settings: Settings, entity: &EntityConfig, metrics: &RelayMetrics, buffers: &Buffers) -> Self {
        let metrics = metrics.entity(name);
        Self {
            name: name.to_owned(),
            settings: ArcSwap::from_pointee(settings),
            closed: CancellationToken::new(),
            guests: Guests::default(),
            listeners: Arc::new(Listeners::new(entity.limits.listeners, metrics.listeners.clone())),
            senders: Share::new("limits.senders", entity.limits.senders),
            requests: Rate::new("limits.requests_per_second", entity.limits.requests_per_second),
            pace: entity.limits.bytes_per_second.map(|rate| Pace::new(rate.0)),
            buffers: buffers.share(),
            seen: Seen::default(),
            metrics,
        }
    }

    /// What is in force now.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }
}

struct Keys<'a> {
    base: &'a Path,
    path: &'a Path,
}

impl Keys<'_> {
    fn rules(&self, key: &str, rules: &BTreeMap<String, RuleConfig>) -> Result<Vec<Arc<Rule>>, ConfigError> {
        rules.iter().map(|(name, rule)| self.rule(&format!("{key}.{name}"), name, rule).map(Arc::new)).collect()
    }

    fn rule(&self, key: &str, name: &str, rule: &RuleConfig) -> Result<Rule, ConfigError> {
        let keys = rule.keys.iter().map(|key| key.read(self.base).map(Into::into)).collect::<Result<_, _>>()?;
        let rule = Rule { name: name.to_owned(), rights: rights(&rule.rights), keys };
        match rule.check_strength() {
            Ok(()) => Ok(rule),
            Err(error) => Err(ConfigError::Invalid {
                path: self.path.to_owned(),
                key: key.to_owned(),
                message: error.to_string(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::compared;

    /// A token for `a/b` covers each of these, so none of them may find the hybrid connection `a`.
    #[test]
    fn empty_segments_and_encoded_slashes_are_seen_alike_by_choice_and_check() {
        for path in ["a/b", "a//b", "/a/b/", "A/%2Fb", "a%2fb", "a%2F/B"] {
            assert_eq!(compared(path), ["a", "b"], "{path}");
        }
    }
}
