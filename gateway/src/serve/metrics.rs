//! The gateway's metrics. Labels come from closed lists, never from peers.

use std::sync::Arc;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

/// Why something ended or was refused: a name from a closed list.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    reason: &'static str,
}

/// Handles, resolved once.
#[derive(Debug, Default)]
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
}

impl Metrics {
    /// Registers the metrics of one gateway.
    pub fn register(metrics: &daemon::metrics::Metrics) -> Arc<Self> {
        let this = Arc::new(Self::default());
        metrics.register(|registry| {
            registry.register("tunnels_opened", "Tunnels opened", this.tunnels_opened.clone());
            registry.register("tunnels_closed", "Tunnels ended", this.tunnels_closed.clone());
            registry.register("streams_opened", "Streams opened", this.streams_opened.clone());
            registry.register("streams_closed", "Streams ended, by reason", this.streams_closed.clone());
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
    pub fn stream_closed(&self, reason: &'static str) {
        self.streams_closed.get_or_create(&Reason { reason }).inc();
        self.streams_ended.inc();
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
