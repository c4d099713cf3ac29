//! The namespace: its hybrid connections, found by path, each with its rules, listeners, senders and counters.
use std::{collections::HashMap, net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use daemon::config::Ranges;
use identity::{jwt::Authenticators, sas::Rule};
use proto::hybrid::address::segments;
use tokio_util::sync::CancellationToken;

use super::{
    authorize::Permits,
    config::{EntityLimits, GrantConfig, Http, Kind},
    listeners::Listeners,
    metrics::{EntityMetrics, RelayMetrics},
    plan::{Plan, Planned},
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
    pub(crate) pace: Pace,
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
    /// Anybody is served at all.
    pub(crate) enabled: bool,
    /// Which senders it takes.
    pub(crate) kind: Kind,
    /// How HTTP requests are relayed.
    pub(crate) http: Http,
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

/// What a namespace is built with beside its plan.
#[derive(Debug)]
pub(crate) struct Ground<'a> {
    pub(crate) generation: u64,
    pub(crate) authenticators: Arc<Authenticators>,
    pub(crate) metrics: &'a RelayMetrics,
    pub(crate) buffers: &'a Buffers,
}

impl Namespace {
    /// As planned. A hybrid connection that was there `before` goes on, with other settings; one that is enabled or
    /// disabled is another, so that the old one can end.
    pub(crate) fn build(plan: &Plan, host: &str, ground: &Ground<'_>, before: Option<&Self>) -> Self {
        let grants: Vec<_> = plan.config.grants.iter().cloned().map(Arc::new).collect();
        let permits = |own: &[Arc<Rule>], own_grants: &[GrantConfig]| Permits {
            generation: ground.generation,
            rules: own.iter().chain(&plan.rules).cloned().collect(),
            grants: own_grants.iter().cloned().map(Arc::new).chain(grants.iter().cloned()).collect(),
            authenticators: ground.authenticators.clone(),
            max_life: plan.config.tokens.max_life.0,
            grace: plan.config.tokens.grace.0,
        };
        let entity = |(segments, planned): (&Vec<String>, &Planned)| {
            let config = &planned.config;
            let settings = Settings {
                permits: permits(&planned.rules, &config.grants),
                enabled: config.enabled,
                kind: config.kind,
                http: config.http,
                anonymous_senders: config.anonymous_senders,
                listeners_from: config.listeners_from.clone(),
            };
            let known = before.and_then(|before| before.entities.get(segments));
            let entity = match known.filter(|known| known.settings().enabled == config.enabled) {
                Some(known) => {
                    known.change(settings, &config.limits);
                    known.clone()
                }
                None => Arc::new(Entity::new(&planned.name, settings, &config.limits, ground)),
            };
            (segments.clone(), entity)
        };
        let entities: HashMap<_, _> = plan.entities.iter().map(entity).collect();
        let deepest = entities.keys().map(Vec::len).max().unwrap_or_default();
        Self { host: host.to_owned(), permits: permits(&[], &[]), entities, deepest }
    }

    /// Asks everybody inside whether they may stay, now that this is in force and no longer what was `before`; gives how
    /// many may not.
    pub(crate) fn ask_again(&self, before: &Self) -> usize {
        let goes_on = |segments, entity| self.entities.get(segments).is_some_and(|now| Arc::ptr_eq(now, entity));
        let mut dropped = 0;
        for (segments, entity) in &before.entities {
            if goes_on(segments, entity) {
                dropped += entity.guests.ask_again(&entity.settings());
            } else {
                dropped += entity.guests.count();
                entity.closed.cancel();
            }
        }
        dropped
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
    fn new(name: &str, settings: Settings, limits: &EntityLimits, ground: &Ground<'_>) -> Self {
        let metrics = ground.metrics.entity(name);
        Self {
            name: name.to_owned(),
            settings: ArcSwap::from_pointee(settings),
            closed: CancellationToken::new(),
            guests: Guests::default(),
            listeners: Arc::new(Listeners::new(limits.listeners, metrics.listeners.clone())),
            senders: Share::new("limits.senders", limits.senders),
            requests: Rate::new("limits.requests_per_second", limits.requests_per_second),
            pace: Pace::new(limits.bytes_per_second.map(|rate| rate.0)),
            buffers: ground.buffers.share(),
            seen: Seen::default(),
            metrics,
        }
    }

    /// Limits that shrink let everybody stay who is inside.
    fn change(&self, settings: Settings, limits: &EntityLimits) {
        self.settings.store(Arc::new(settings));
        self.listeners.limit(limits.listeners);
        self.senders.resize(limits.senders);
        self.requests.change(limits.requests_per_second);
        self.pace.change(limits.bytes_per_second.map(|rate| rate.0));
    }

    /// What is in force now.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
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
