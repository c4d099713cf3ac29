//! The clusters that faces can lead to now. A reload exchanges the set; whoever opens a stream asks for its cluster then,
//! so no face keeps one that is gone.
use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use daemon::workers::Worker;
use proto::tunnel::failure::{Code, Failure};

use super::{
    bulk::Memory,
    config::FaceKind,
    metrics::{ConnectMetrics, FaceMetrics},
    target::Target,
    tunnels::Tunnels,
};

/// All clusters. Cheap to clone; clones are the same set.
#[derive(Debug, Clone)]
pub(crate) struct Clusters {
    known: Arc<ArcSwap<BTreeMap<Arc<str>, Known>>>,
    /// Which targets are bulk.
    pub(crate) memory: Memory,
    metrics: ConnectMetrics,
    nowhere: Arc<Handles>,
}

/// One of them.
#[derive(Debug, Clone)]
struct Known {
    tunnels: Tunnels,
    handles: Arc<Handles>,
}

/// Metrics of one cluster's streams, one for each kind of face.
#[derive(Debug)]
struct Handles(Vec<Arc<FaceMetrics>>);

/// Where one stream of a face leads.
#[derive(Debug, Clone)]
pub(crate) struct Lead {
    pub(crate) target: Arc<Target>,
    pub(crate) tunnels: Tunnels,
    pub(crate) metrics: Arc<FaceMetrics>,
}

impl Lead {
    /// The same, for a stream that is known to be bulk.
    pub(crate) fn for_bulk(self) -> Self {
        Self { tunnels: self.tunnels.for_bulk(), ..self }
    }
}

/// A cluster that streams of a face can go to.
#[derive(Debug, Clone)]
pub(crate) struct Reach {
    pub(crate) cluster: Arc<str>,
    pub(crate) tunnels: Tunnels,
    pub(crate) metrics: Arc<FaceMetrics>,
}

impl Clusters {
    pub(crate) fn new(known: impl IntoIterator<Item = Tunnels>, metrics: ConnectMetrics) -> Self {
        let nowhere = Arc::new(Handles::of("", &metrics));
        let clusters = Self { known: Arc::default(), memory: Memory::default(), metrics, nowhere };
        clusters.exchange(known);
        clusters
    }

    /// From now on these, and no others.
    pub(crate) fn exchange(&self, known: impl IntoIterator<Item = Tunnels>) {
        let known = known.into_iter().map(|tunnels| {
            let name = Arc::clone(tunnels.cluster());
            let handles = Arc::new(Handles::of(&name, &self.metrics));
            (name, Known { tunnels, handles })
        });
        self.known.store(Arc::new(known.collect()));
    }

    /// Their tunnels, by the clusters' names.
    pub(crate) fn all(&self) -> Vec<Tunnels> {
        self.known.load().values().map(|known| known.tunnels.clone()).collect()
    }

    /// Whether this worker drives a tunnel to one of these clusters; no name stands for all.
    pub(crate) fn are_on(&self, worker: Worker, names: &[Arc<str>], bulk: bool) -> bool {
        let known = self.known.load();
        let is_on = |known: &Known| {
            if bulk { known.tunnels.for_bulk().is_on(worker) } else { known.tunnels.is_on(worker) }
        };
        if names.is_empty() {
            known.values().any(is_on)
        } else {
            names.iter().filter_map(|name| known.get(name)).any(is_on)
        }
    }

    /// The tunnels to one of them.
    pub(crate) fn tunnels(&self, name: &str) -> Option<Tunnels> {
        self.known.load().get(name).map(|known| known.tunnels.clone())
    }

    /// Splits a name before the cluster's that it ends with, the longest one that fits: `scorer.models.factory-a`.
    pub(crate) fn split<'a>(&self, name: &'a str) -> Option<(&'a str, Arc<str>)> {
        let known = self.known.load();
        let mut from = 0;
        while let Some(dot) = name.get(from..)?.find('.') {
            from += dot + 1;
            if let Some((cluster, _)) = known.get_key_value(&name[from..]) {
                return Some((&name[..from - 1], Arc::clone(cluster)));
            }
        }
        None
    }

    /// How to get to a target from a face of this kind.
    ///
    /// # Errors
    /// Its cluster is not in the configuration (any more).
    pub(crate) fn lead(&self, target: Arc<Target>, kind: FaceKind) -> Result<Lead, Failure> {
        let Reach { tunnels, metrics, .. } = self.reach(&target.cluster, kind)?;
        Ok(Lead { target, tunnels, metrics })
    }

    /// How to get to a cluster from a face of this kind.
    ///
    /// # Errors
    /// It is not in the configuration (any more).
    pub(crate) fn reach(&self, cluster: &Arc<str>, kind: FaceKind) -> Result<Reach, Failure> {
        let Some(Known { tunnels, handles }) = self.known.load().get(cluster).cloned() else {
            let text = format!("no cluster `{cluster}` is configured");
            return Err(Failure::before_target(Code::InvalidRequest, text));
        };
        Ok(Reach { cluster: Arc::clone(cluster), tunnels, metrics: handles.get(kind) })
    }

    /// Handles of those streams of a kind of face that were refused before a cluster was known.
    pub(crate) fn nowhere(&self, kind: FaceKind) -> Arc<FaceMetrics> {
        self.nowhere.get(kind)
    }
}

impl Handles {
    fn of(cluster: &str, metrics: &ConnectMetrics) -> Self {
        Self(FaceKind::ALL.iter().map(|kind| Arc::new(metrics.face(cluster, *kind))).collect())
    }

    fn get(&self, kind: FaceKind) -> Arc<FaceMetrics> {
        Arc::clone(&self.0[kind as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::metrics::ClusterMetrics;

    fn clusters(names: &[&str]) -> Clusters {
        let tunnels = names.iter().map(|name| Tunnels::new((*name).into(), 1, ClusterMetrics::default()));
        Clusters::new(tunnels, ConnectMetrics::default())
    }

    #[test]
    fn a_name_ends_with_the_longest_cluster_that_fits() {
        let clusters = clusters(&["factory-a", "eu.factory-a"]);
        let split = |name| clusters.split(name).map(|(host, cluster)| (host, cluster.to_string()));
        assert_eq!(split("scorer.models.factory-a"), Some(("scorer.models", "factory-a".to_owned())));
        assert_eq!(split("scorer.models.eu.factory-a"), Some(("scorer.models", "eu.factory-a".to_owned())));
        for name in ["", "factory-a", "scorer.models", "scorer.models.factory-b", "scorer.xfactory-a", "a..", "."] {
            assert_eq!(split(name), None, "{name}");
        }
    }

    #[test]
    fn only_a_cluster_that_is_known_is_led_to() {
        let clusters = clusters(&["a"]);
        let target = |cluster: &str| Arc::new(Target::within(cluster, "db:5432").unwrap());
        assert!(clusters.lead(target("a"), FaceKind::Tcp).is_ok());
        clusters.exchange([]);
        assert_eq!(clusters.lead(target("a"), FaceKind::Tcp).unwrap_err().code, Code::InvalidRequest);
    }
}
