//! The process's Prometheus registry. Metrics are registered once, at start; labels come from configuration and closed
//! enums, never from peers, so that its size is bounded by what the owner wrote.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::{encoding::text::encode, registry::Registry};

/// What [`Metrics::encode`] must be served as (OpenMetrics 1.0).
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One registry per process (per component in the all-in-one), with a prefix of its own.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Metrics {
    /// `prefix` is the program: `causeway_relay`, `causeway_gateway`, …
    pub fn new(prefix: &str) -> Self {
        Self { registry: Arc::new(Mutex::new(Registry::with_prefix(prefix))) }
    }

    /// Registers metrics, once, at start.
    pub fn register(&self, with: impl FnOnce(&mut Registry)) {
        with(&mut self.registry());
    }

    /// Text exposition (OpenMetrics), ending in `# EOF`.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry()).expect("writing to a String does not fail");
        text
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        // A registration that panicked half-way leaves metrics out, nothing worse.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn registered_metrics_are_encoded_under_the_prefix() {
        let metrics = Metrics::new("causeway_relay");
        let opened = Counter::<u64>::default();
        metrics.register(|registry| registry.register("senders_opened", "Senders that were let in", opened.clone()));
        opened.inc_by(3);
        let text = metrics.encode();
        assert!(text.contains("causeway_relay_senders_opened_total 3\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
