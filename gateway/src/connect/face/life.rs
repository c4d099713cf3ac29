//! How long a face and its connections live. The end has two stages: no more work is taken, then what is left is cut.
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use daemon::shutdown::Shutdown;
use tokio_util::sync::CancellationToken;

/// How long connections on which nothing was asked stay when the end has begun. Who sends a request just then is answered,
/// and told that the connection ends; whoever asks less often finds it closed.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// The life of one face. Cheap to clone; clones are the same life.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    shutdown: Shutdown,
    drain: CancellationToken,
    force: CancellationToken,
    handed_over: Arc<AtomicBool>,
}

impl Life {
    pub(super) fn new(shutdown: &Shutdown) -> Self {
        Self {
            shutdown: shutdown.clone(),
            drain: shutdown.drain_token(),
            force: shutdown.force_token(),
            handed_over: Arc::default(),
        }
    }

    /// This face alone takes nothing new from now on.
    pub(crate) fn end(&self) {
        self.drain.cancel();
    }

    /// The same, and another face listens at its place.
    pub(crate) fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Relaxed);
        self.end();
    }

    /// Whether another face listens at its place.
    pub(super) fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Relaxed)
    }

    /// Whether nothing new is to be taken.
    pub(super) fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Resolves when connections on which nothing was asked are to end.
    pub(super) async fn lingered(&self) {
        self.drain.cancelled().await;
        tokio::time::sleep(LINGER).await;
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
