//! Two-stage shutdown: draining (finish what is there, take nothing new), then force. Tasks are owned by one tracker.
use std::time::Duration;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Handed to everything that must notice a shutdown. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shutdown {
    drain: CancellationToken,
    force: CancellationToken,
    tracker: TaskTracker,
}

impl Shutdown {
    /// A shutdown that nobody has asked for yet.
    pub fn new() -> Self {
        Self { drain: CancellationToken::new(), force: CancellationToken::new(), tracker: TaskTracker::new() }
    }

    /// Resolves when draining begins.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Whether draining has begun.
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Resolves when the grace period is over and everything must end at once.
    pub async fn forced(&self) {
        self.force.cancelled().await;
    }

    /// Spawns a task that shutdown waits for. It should end by itself after `draining`, and is expected to end at once
    /// after `forced`.
    pub fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(task)
    }

    /// Begins draining.
    pub fn begin(&self) {
        self.drain.cancel();
    }

    /// Begins draining, waits for every task up to `grace`, then forces the rest and waits for them briefly.
    pub async fn run(&self, grace: Duration) -> Outcome {
        let _ = (grace, &self.force);
        todo!()
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

/// How a shutdown ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything finished within the grace period.
    Drained,
    /// This many tasks had to be cut off.
    Forced(usize),
}
