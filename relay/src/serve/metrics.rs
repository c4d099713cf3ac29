//! Counters of a relay. Labels come from the configuration and from closed enums, never from a peer.
use std::sync::atomic::AtomicU64;

use daemon::metrics::Metrics;
use http::StatusCode;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

use super::refusal::Refusal;

/// From a listener beside the relay to the end of the accept window.
const ANSWER_SECONDS: [f64; 10] = [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 10.0, 30.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EntityLabel {
    entity: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BytesLabel {
    entity: String,
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    entity: String,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    entity: String,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabel {
    entity: String,
    reason: &'static str,
}

/// All families of one relay.
#[derive(Debug, Clone)]
pub(crate) struct RelayMetrics {
    active_listeners: Family<EntityLabel, Gauge>,
    listeners: Family<EntityLabel, Counter>,
    active_senders: Family<EntityLabel, Gauge>,
    senders: Family<EntityLabel, Counter>,
    bytes: Family<BytesLabel, Counter<u64, AtomicU64>>,
    requests: Family<StatusLabel, Counter>,
    refusals: Family<CodeLabel, Counter>,
    answer_seconds: Family<EntityLabel, Histogram, fn() -> Histogram>,
    unanswered: Family<EntityLabel, Counter>,
    parked: Family<EntityLabel, Counter>,
    listeners_ended: Family<EndLabel, Counter>,
    handshakes_failed: Counter,
    handshakes_crowded: Counter,
}

/// Handles for one entity, resolved once.
#[derive(Debug, Clone)]
pub(crate) struct EntityMetrics {
    /// Control channels now.
    pub(crate) listeners: Gauge,
    /// Control channels ever opened.
    pub(crate) listeners_opened: Counter,
    /// Joined senders now.
    pub(crate) senders: Gauge,
    senders_opened: Counter,
    /// From the question to a listener to its answer.
    pub(crate) answer_seconds: Histogram,
    /// Questions to listeners that were never answered.
    pub(crate) unanswered: Counter,
    /// Storming listeners that were parked.
    pub(crate) parked: Counter,
    /// Payload from senders.
    pub(crate) bytes_to_listener: Counter<u64, AtomicU64>,
    /// Payload from listeners.
    pub(crate) bytes_to_sender: Counter<u64, AtomicU64>,
    /// HTTP requests by class of their status, from 2xx to 5xx.
    requests: [Counter; 4],
}

/// A joined sender; counted out on drop.
#[derive(Debug)]
pub(crate) struct OpenSender(Gauge);

impl EntityMetrics {
    /// Counts one sender in.
    pub(crate) fn open_sender(&self) -> OpenSender {
        self.senders_opened.inc();
        self.senders.inc();
        OpenSender(self.senders.clone())
    }

    /// Counts an HTTP request that was answered, by whomever.
    pub(crate) fn answered(&self, status: StatusCode) {
        // Whatever is beyond 5xx, RFC 9110 has clients treat as such.
        let class = usize::from(status.as_u16() / 100).clamp(2, 5);
        self.requests[class - 2].inc();
    }
}

impl Drop for OpenSender {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl RelayMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let this = Self {
            active_listeners: Family::default(),
            listeners: Family::default(),
            active_senders: Family::default(),
            senders: Family::default(),
            bytes: Family::default(),
            requests: Family::default(),
            refusals: Family::default(),
            answer_seconds: Family::new_with_constructor(|| Histogram::new(ANSWER_SECONDS)),
            unanswered: Family::default(),
            parked: Family::default(),
            listeners_ended: Family::default(),
            handshakes_failed: Counter::default(),
            handshakes_crowded: Counter::default(),
        };
        let all = this.clone();
        metrics.register(|registry| {
            registry.register("active_listeners", "Control channels that are open", all.active_listeners);
            registry.register("listeners", "Control channels opened", all.listeners);
            registry.register("active_senders", "Senders that are joined with a listener", all.active_senders);
            registry.register("senders", "Senders joined with a listener", all.senders);
            registry.register("payload_bytes", "Payload forwarded", all.bytes);
            registry.register("http_requests", "HTTP requests answered, by class of their status", all.requests);
            registry.register("refusals", "Requests refused by the relay, by reason", all.refusals);
            registry.register("answer_seconds", "From asking a listener to its answer", all.answer_seconds);
            registry.register("unanswered", "Questions that a listener never answered", all.unanswered);
            registry.register("listeners_ended", "Control channels ended, by reason", all.listeners_ended);
            registry.register("parked", "Storming listeners that were parked instead of refused", all.parked);
            registry.register(
                "handshakes_failed",
                "Connections that never sent a whole request",
                all.handshakes_failed,
            );
            registry.register(
                "handshakes_crowded",
                "Connections closed at once because their address had too many unproven ones",
                all.handshakes_crowded,
            );
        });
        this
    }

    /// The handles of one entity.
    pub(crate) fn entity(&self, name: &str) -> EntityMetrics {
        let entity = EntityLabel { entity: name.to_owned() };
        let requests = ["2xx", "3xx", "4xx", "5xx"]
            .map(|status| self.requests.get_or_create_owned(&StatusLabel { entity: name.to_owned(), status }));
        let bytes = |direction| self.bytes.get_or_create_owned(&BytesLabel { entity: name.to_owned(), direction });
        EntityMetrics {
            listeners: self.active_listeners.get_or_create_owned(&entity),
            listeners_opened: self.listeners.get_or_create_owned(&entity),
            senders: self.active_senders.get_or_create_owned(&entity),
            senders_opened: self.senders.get_or_create_owned(&entity),
            answer_seconds: self.answer_seconds.get_or_create_owned(&entity),
            unanswered: self.unanswered.get_or_create_owned(&entity),
            parked: self.parked.get_or_create_owned(&entity),
            bytes_to_listener: bytes("to_listener"),
            bytes_to_sender: bytes("to_sender"),
            requests,
        }
    }

    /// `entity` is a configured name, or empty when the path named none.
    pub(crate) fn refused(&self, entity: &str, refusal: Refusal) {
        self.refusals.get_or_create(&CodeLabel { entity: entity.to_owned(), code: refusal.name() }).inc();
    }

    pub(crate) fn listener_ended(&self, entity: &str, reason: &'static str) {
        self.listeners_ended.get_or_create(&EndLabel { entity: entity.to_owned(), reason }).inc();
    }

    pub(crate) fn handshake_failed(&self) {
        self.handshakes_failed.inc();
    }

    pub(crate) fn crowded(&self) {
        self.handshakes_crowded.inc();
    }
}
