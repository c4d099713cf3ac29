//! Metrics of the connector. Labels come from the configuration and closed enums, never from a peer; handles are
//! resolved once per face and cluster.
use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, SystemTime},
};

use daemon::{clock::SharedClock, metrics::Metrics};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        MetricType,
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
};

use super::{clusters::Clusters, config::FaceKind, way::error::WayCode};
use crate::{fault::Fault, serve::metrics::FIRST_BYTE_BUCKETS};

/// Seconds, in fractions.
type Seconds = Counter<f64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaceLabels {
    cluster: String,
    face: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaultLabels {
    cluster: String,
    face: &'static str,
    fault: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabels {
    cluster: String,
    face: &'static str,
    direction: &'static str,
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
#[derive(Debug, Clone)]
pub(crate) struct ConnectMetrics {
    opened: Family<FaceLabels, Counter>,
    closed: Family<FaceLabels, Counter>,
    bytes_out: Family<FaceLabels, Counter>,
    bytes_in: Family<FaceLabels, Counter>,
    blocked: Family<DirectionLabels, Seconds>,
    first_byte: Family<FaceLabels, Histogram, fn() -> Histogram>,
    faults: Family<FaultLabels, Counter>,
    tunnels: Family<ClusterLabels, Gauge>,
    tunnels_opened: Family<ClusterLabels, Counter>,
    way_failures: Family<FailureLabels, Counter>,
    mismatches: Family<ClusterLabels, Counter>,
}

/// Handles of one face.
#[derive(Debug, Clone)]
pub(crate) struct FaceMetrics {
    pub(crate) opened: Counter,
    closed: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) bytes_in: Counter,
    pub(crate) blocked_out: Seconds,
    pub(crate) blocked_in: Seconds,
    first_byte: Histogram,
    /// By the numbers of [`Fault`].
    faults: Vec<Counter>,
}

impl FaceMetrics {
    /// A stream ended.
    pub(crate) fn closed(&self, fault: Fault, first_byte: Option<Duration>) {
        self.closed.inc();
        if fault != Fault::Nobody
            && let Some(counter) = self.faults.get(fault as usize)
        {
            counter.inc();
        }
        if let Some(first) = first_byte {
            self.first_byte.observe(first.as_secs_f64());
        }
    }
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

impl Default for ConnectMetrics {
    fn default() -> Self {
        Self {
            opened: Family::default(),
            closed: Family::default(),
            bytes_out: Family::default(),
            bytes_in: Family::default(),
            blocked: Family::default(),
            first_byte: Family::new_with_constructor(|| Histogram::new(FIRST_BYTE_BUCKETS)),
            faults: Family::default(),
            tunnels: Family::default(),
            tunnels_opened: Family::default(),
            way_failures: Family::default(),
            mismatches: Family::default(),
        }
    }
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
            registry.register(
                "blocked_seconds",
                "Time that streams waited because the next hop took nothing more, by direction",
                ours.blocked.clone(),
            );
            registry.register(
                "first_byte_seconds",
                "From a client's request to the first byte, or the head, of the answer",
                ours.first_byte.clone(),
            );
            registry.register("stream_failures", "Streams that failed, by whose doing it was", ours.faults.clone());
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
            blocked_out: self.blocked(&labels, "to_target"),
            blocked_in: self.blocked(&labels, "to_client"),
            first_byte: self.first_byte.get_or_create(&labels).clone(),
            faults: Fault::ALL.iter().map(|fault| self.fault(&labels, *fault)).collect(),
        }
    }

    fn blocked(&self, FaceLabels { cluster, face }: &FaceLabels, direction: &'static str) -> Seconds {
        self.blocked.get_or_create(&DirectionLabels { cluster: cluster.clone(), face, direction }).clone()
    }

    fn fault(&self, FaceLabels { cluster, face }: &FaceLabels, fault: Fault) -> Counter {
        self.faults.get_or_create(&FaultLabels { cluster: cluster.clone(), face, fault: fault.name() }).clone()
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

const LEFT: (&str, &str) = (
    "credential_seconds_left",
    "Seconds until the connector's own proof ends on the tunnel where it ends first; negative: ended",
);

/// Seconds that the connector's own proof is still taken for, read when it is asked for.
#[derive(Debug)]
pub(crate) struct CredentialLeft {
    pub(crate) clusters: Clusters,
    pub(crate) clock: SharedClock,
}

impl Collector for CredentialLeft {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(LEFT.0, LEFT.1, None, MetricType::Gauge)?;
        let now = self.clock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        for tunnels in self.clusters.all() {
            let Some(expires) = tunnels.first_expiry() else { continue };
            let labels = ClusterLabels { cluster: tunnels.cluster().to_string() };
            ConstGauge::new(expires.saturating_sub(now)).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// Registers every family with an example of each series, for the reference page.
pub fn example(metrics: &Metrics) {
    let ours = ConnectMetrics::register(metrics);
    ours.face("factory-a", FaceKind::Http);
    let cluster = ours.cluster(&Arc::from("factory-a"));
    cluster.failed("direct", WayCode::ALL[0]);
    let left = Family::<ClusterLabels, Gauge>::default();
    drop(left.get_or_create(&ClusterLabels { cluster: "factory-a".to_owned() }));
    metrics.register(|registry| registry.register(LEFT.0, LEFT.1, left));
}
