//! The gateway's metrics. Labels come from closed lists, never from peers; handles are resolved once.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::SystemTime,
};

use daemon::clock::SharedClock;
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

use super::{cluster::Shown, session::record::Traffic};
use crate::fault::Fault;

/// From the call to the answer's first byte: from what a local target needs to what a model may.
pub const FIRST_BYTE_BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 120.0];

/// Why something ended or was refused: a name from a closed list.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    reason: &'static str,
}

/// Whose doing a failure was.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByFault {
    fault: &'static str,
}

/// Where bytes go.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Direction {
    direction: &'static str,
}

/// Seconds, in fractions.
type Seconds = Counter<f64, AtomicU64>;

/// Handles, resolved once.
#[derive(Debug)]
pub struct Metrics {
    /// Tunnels that came through the handshakes.
    pub tunnels_opened: Counter,
    /// Tunnels that ended; open ones are the difference.
    pub tunnels_closed: Counter,
    /// Streams that callers opened, whatever became of them.
    pub streams_opened: Counter,
    streams_closed: Family<Reason, Counter>,
    /// The sum of `streams_closed`, which cannot be asked for it.
    streams_ended: Counter,
    connections_refused: Family<Reason, Counter>,
    failures: Vec<Counter>,
    bytes_to_target: Counter,
    bytes_to_caller: Counter,
    blocked_to_target: Seconds,
    blocked_to_caller: Seconds,
    first_byte: Histogram,
}

impl Metrics {
    /// Registers the metrics of one gateway.
    pub fn register(metrics: &daemon::metrics::Metrics) -> Arc<Self> {
        let (failures, bytes) = (Family::<ByFault, Counter>::default(), Family::<Direction, Counter>::default());
        let blocked = Family::<Direction, Seconds>::default();
        // Each look-up is over before the next one begins: a family is locked as long as one of its handles is borrowed.
        let bytes_towards = |direction| bytes.get_or_create(&Direction { direction }).clone();
        let blocked_towards = |direction| blocked.get_or_create(&Direction { direction }).clone();
        let this = Arc::new(Self {
            tunnels_opened: Counter::default(),
            tunnels_closed: Counter::default(),
            streams_opened: Counter::default(),
            streams_closed: Family::default(),
            streams_ended: Counter::default(),
            connections_refused: Family::default(),
            failures: Fault::ALL
                .iter()
                .map(|fault| failures.get_or_create(&ByFault { fault: fault.name() }).clone())
                .collect(),
            bytes_to_target: bytes_towards("to_target"),
            bytes_to_caller: bytes_towards("to_caller"),
            blocked_to_target: blocked_towards("to_target"),
            blocked_to_caller: blocked_towards("to_caller"),
            first_byte: Histogram::new(FIRST_BYTE_BUCKETS),
        });
        metrics.register(|registry| {
            registry.register("tunnels_opened", "Tunnels opened", this.tunnels_opened.clone());
            registry.register(
                "tunnels_closed",
                "Tunnels ended; those that are open are the difference",
                this.tunnels_closed.clone(),
            );
            registry.register("streams_opened", "Streams opened", this.streams_opened.clone());
            registry.register(
                "streams_closed",
                "Streams ended, by reason: ok, or a code of docs/errors.md",
                this.streams_closed.clone(),
            );
            registry.register("stream_failures", "Streams that failed, by whose doing it was", failures);
            registry.register("bytes", "Payload that was carried, by direction", bytes);
            registry.register(
                "blocked_seconds",
                "Time that streams waited because the next hop took nothing more, by direction",
                blocked,
            );
            registry.register(
                "first_byte_seconds",
                "From a stream's beginning to the first byte, or the head, of the target's answer",
                this.first_byte.clone(),
            );
            let refused = this.connections_refused.clone();
            registry.register(
                "connections_refused",
                "Connections refused before they were tunnels, by reason",
                refused,
            );
        });
        this
    }

    /// A stream ended.
    pub fn stream_closed(&self, reason: &'static str, fault: Fault, traffic: &Traffic) {
        self.streams_closed.get_or_create(&Reason { reason }).inc();
        self.streams_ended.inc();
        if fault != Fault::Nobody
            && let Some(counter) = self.failures.get(fault as usize)
        {
            counter.inc();
        }
        let (to_target, to_caller) = traffic.totals();
        self.bytes_to_target.inc_by(to_target);
        self.bytes_to_caller.inc_by(to_caller);
        self.blocked_to_target.inc_by(traffic.blocked_to_target.total().as_secs_f64());
        self.blocked_to_caller.inc_by(traffic.blocked_to_caller.total().as_secs_f64());
        if let Some(first) = traffic.first_byte() {
            self.first_byte.observe(first.as_secs_f64());
        }
    }

    /// Streams that are open now.
    pub fn streams_open(&self) -> u64 {
        // Ended first: one that ends in between counts as open, and none is counted twice.
        let ended = self.streams_ended.get();
        self.streams_opened.get().saturating_sub(ended)
    }

    /// A connection was refused.
    pub fn connection_refused(&self, reason: &'static str) {
        self.connections_refused.get_or_create(&Reason { reason }).inc();
    }
}

const LEFT: (&str, &str) =
    ("credential_seconds_left", "Seconds until the certificate that the gateway shows ends; negative: ended");

/// Seconds that the gateway's own certificate is still good for, read when it is asked for.
#[derive(Debug)]
pub struct CredentialLeft {
    /// What the tunnel port shows.
    pub shown: Arc<Shown>,
    /// The one clock.
    pub clock: SharedClock,
}

impl Collector for CredentialLeft {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(ends) = self.shown.ends() else { return Ok(()) };
        let seconds = |time: SystemTime| {
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        };
        let left = seconds(ends).saturating_sub(seconds(self.clock.now()));
        let (name, help) = LEFT;
        ConstGauge::new(left).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }
}

/// Registers every family with an example of each series, for the reference page.
pub fn example(metrics: &daemon::metrics::Metrics) {
    let ours = Metrics::register(metrics);
    drop(ours.streams_closed.get_or_create(&Reason { reason: "ok" }));
    ours.connection_refused("limit");
    metrics.register(|registry| registry.register(LEFT.0, LEFT.1, Gauge::<i64>::default()));
}
