//! The process's Prometheus registry.
use std::sync::{Arc, Mutex};

use prometheus_client::registry::Registry;

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
        with(&mut self.registry.lock().expect("no code panics while it holds the registry"));
    }

    /// Text exposition (OpenMetrics).
    pub fn encode(&self) -> String {
        todo!()
    }
}
