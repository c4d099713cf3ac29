//! The shape of every `main`: load, start, wait for a signal, drain, say how it ended. Exit codes: 0 drained, 1 failed,
//! 64 bad configuration.

use crate::{admin::Readiness, clock::SharedClock, metrics::Metrics, shutdown::Shutdown};

/// What a component is given by the process it runs in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Context {
    /// When to drain and when to stop.
    pub shutdown: Shutdown,
    /// The one clock.
    pub clock: SharedClock,
    /// Where metrics are registered.
    pub metrics: Metrics,
    /// What `/readyz` waits for.
    pub readiness: Readiness,
}

impl Context {
    /// A context on the system clock; `prefix` names the component in metrics.
    pub fn new(prefix: &str) -> Self {
        let _ = prefix;
        todo!()
    }
}

/// Resolves on SIGTERM or SIGINT.
pub async fn terminated() {
    todo!()
}
