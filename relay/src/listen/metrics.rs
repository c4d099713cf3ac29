//! Counters of a listener.
use daemon::metrics::Metrics;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabel {
    outcome: &'static str,
    by: &'static str,
}

/// All families of one listener.
#[derive(Debug, Clone, Default)]
pub(crate) struct ListenerMetrics {
    /// Open control channels.
    pub(crate) active_channels: Gauge,
    /// Control channels ever opened.
    pub(crate) channels: Counter,
    /// Dials for a control channel that failed.
    pub(crate) channel_failures: Counter,
    /// Rendezvous that are joined with a target.
    pub(crate) active_rendezvous: Gauge,
    /// Payload from senders.
    pub(crate) bytes_to_target: Counter,
    /// Payload from targets.
    pub(crate) bytes_to_sender: Counter,
    /// HTTP requests that are being handled.
    pub(crate) active_requests: Gauge,
    rendezvous: Family<OutcomeLabel, Counter>,
    requests: Family<RequestLabel, Counter>,
    ends: Family<OutcomeLabel, Counter>,
    rotations: Family<OutcomeLabel, Counter>,
    renewals: Family<OutcomeLabel, Counter>,
}

impl ListenerMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let this = Self::default();
        let all = this.clone();
        metrics.register(|registry| {
            registry.register("active_channels", "Control channels that are open", all.active_channels);
            registry.register("channels", "Control channels opened", all.channels);
            registry.register("channel_failures", "Dials for a control channel that failed", all.channel_failures);
            registry.register("active_rendezvous", "Rendezvous joined with a target", all.active_rendezvous);
            registry.register("to_target_bytes", "Payload from senders to targets", all.bytes_to_target);
            registry.register("to_sender_bytes", "Payload from targets to senders", all.bytes_to_sender);
            registry.register("rendezvous", "Rendezvous ended, by outcome", all.rendezvous);
            registry.register("active_requests", "HTTP requests being handled", all.active_requests);
            registry.register("requests", "HTTP requests ended, by outcome and way of the answer", all.requests);
            registry.register("channel_ends", "Control channels ended, by reason", all.ends);
            registry.register("rotations", "Replacements of control channels by age, by outcome", all.rotations);
            registry.register("renewals", "Renewals of tokens, by outcome", all.renewals);
        });
        this
    }

    /// One rendezvous ended. `outcome` comes from a closed set of names.
    pub(crate) fn ended(&self, outcome: &'static str) {
        self.rendezvous.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// One HTTP request ended. Both names come from closed sets.
    pub(crate) fn request_ended(&self, outcome: &'static str, by: &'static str) {
        self.requests.get_or_create(&RequestLabel { outcome, by }).inc();
    }

    /// One control channel ended.
    pub(crate) fn channel_ended(&self, outcome: &'static str) {
        self.ends.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// One replacement of a control channel.
    pub(crate) fn rotated(&self, outcome: &'static str) {
        self.rotations.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// One step of a renewal.
    pub(crate) fn renewed(&self, outcome: &'static str) {
        self.renewals.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}
