//! Metrics of the connector. Labels come from the configuration and closed enums, never from a peer; handles are
//! resolved once per face and cluster.
use std::sync::Arc;

use daemon::metrics::Metrics;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

use super::{config::FaceKind, way::error::WayCode};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaceLabels {
    cluster: String,
    face: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClusterLabels {
    cluster: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    cluster: String,
    way: &'static str,
    code: &'static str,
}

/// All families; registered once per component.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectMetrics {
    opened: Family<FaceLabels, Counter>,
    closed: Family<FaceLabels, Counter>,
    bytes_out: Family<FaceLabels, Counter>,
    bytes_in: Family<FaceLabels, Counter>,
    tunnels: Family<ClusterLabels, Gauge>,
    tunnels_opened: Family<ClusterLabels, Counter>,
    way_failures: Family<FailureLabels, Counter>,
    mismatches: Family<ClusterLabels, Counter>,
}

/// Handles of one face.
#[derive(Debug, Clone, Default)]
pub(crate) struct FaceMetrics {
    pub(crate) opened: Counter,
    pub(crate) closed: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) bytes_in: Counter,
}

/// Handles of one cluster.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClusterMetrics {
    pub(crate) tunnels: Gauge,
    pub(crate) tunnels_opened: Counter,
    pub(crate) mismatches: Counter,
    failures: Family<FailureLabels, Counter>,
    cluster: Arc<str>,
}

impl ConnectMetrics {
    /// Registers every family.
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let ours = Self::default();
        metrics.register(|registry| {
            registry.register("streams_opened", "Streams that clients asked for", ours.opened.clone());
            registry.register("streams_closed", "Streams that ended", ours.closed.clone());
            registry.register("sent_bytes", "Payload towards targets", ours.bytes_out.clone());
            registry.register("received_bytes", "Payload towards clients", ours.bytes_in.clone());
            registry.register("tunnels_up", "Tunnels that take streams", ours.tunnels.clone());
            registry.register("tunnels_opened", "Tunnels that came up", ours.tunnels_opened.clone());
            registry.register("way_failures", "Ways that did not become a tunnel", ours.way_failures.clone());
            registry.register(
                "gateway_identity_mismatch",
                "Peers that did not prove to be the cluster's gateway",
                ours.mismatches.clone(),
            );
        });
        ours
    }

    /// Handles of a face.
    pub(crate) fn face(&self, cluster: &str, kind: FaceKind) -> FaceMetrics {
        let labels = FaceLabels { cluster: cluster.to_owned(), face: kind.name() };
        FaceMetrics {
            opened: self.opened.get_or_create(&labels).clone(),
            closed: self.closed.get_or_create(&labels).clone(),
            bytes_out: self.bytes_out.get_or_create(&labels).clone(),
            bytes_in: self.bytes_in.get_or_create(&labels).clone(),
        }
    }

    /// Handles of a cluster.
    pub(crate) fn cluster(&self, cluster: &Arc<str>) -> ClusterMetrics {
        let labels = ClusterLabels { cluster: cluster.to_string() };
        ClusterMetrics {
            tunnels: self.tunnels.get_or_create(&labels).clone(),
            tunnels_opened: self.tunnels_opened.get_or_create(&labels).clone(),
            mismatches: self.mismatches.get_or_create(&labels).clone(),
            failures: self.way_failures.clone(),
            cluster: Arc::clone(cluster),
        }
    }
}

impl ClusterMetrics {
    /// Counts a way that failed.
    pub(crate) fn failed(&self, way: &'static str, code: WayCode) {
        let labels = FailureLabels { cluster: self.cluster.to_string(), way, code: code.name() };
        self.failures.get_or_create(&labels).inc();
    }
}
