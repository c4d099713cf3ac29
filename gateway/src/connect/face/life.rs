//! How long a face and its connections live. The end has two stages: no more work is taken, then what is left is cut.
use daemon::shutdown::Shutdown;
use tokio_util::sync::CancellationToken;

/// The life of one face. Cheap to clone; clones are the same life.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    shutdown: Shutdown,
    drain: CancellationToken,
    force: CancellationToken,
}

impl Life {
    pub(super) fn new(shutdown: &Shutdown) -> Self {
        Self { shutdown: shutdown.clone(), drain: shutdown.drain_token(), force: shutdown.force_token() }
    }

    /// Resolves when nothing new is to be taken.
    pub(super) async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Resolves when what is in flight must end at once.
    pub(super) async fn forced(&self) {
        self.force.cancelled().await;
    }

    /// Spawns a task that the connector's shutdown waits for.
    pub(super) fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.shutdown.spawn(task)
    }
}
