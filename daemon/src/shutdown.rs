//! Two-stage shutdown: draining (finish what is there, take nothing new), then force. Tasks are owned by one tracker.
//!
//! What tells others about the work, such as an exporter, is owned by a second tracker and ends after all work has.
//!
//! Whoever accepts work watches [`Shutdown::draining`]; whoever does work watches [`Shutdown::forced`]. A task that
//! ignores both is left behind after [`FORCE_WAIT`] and dies with its runtime.
use std::time::Duration;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long forced tasks get to write their last log line and close their sockets. Longer would eat into the time
/// between SIGTERM and SIGKILL that the grace period was chosen for.
pub const FORCE_WAIT: Duration = Duration::from_secs(2);

/// Handed to everything that must notice a shutdown. Cheap to clone; all clones are one shutdown.
#[derive(Debug, Clone)]
pub struct Shutdown {
    drain: CancellationToken,
    force: CancellationToken,
    tracker: TaskTracker,
    /// Set when all work has ended, one way or the other.
    over: CancellationToken,
    last: TaskTracker,
}

impl Shutdown {
    /// A shutdown that nobody has asked for yet.
    pub fn new() -> Self {
        Self {
            drain: CancellationToken::new(),
            force: CancellationToken::new(),
            tracker: TaskTracker::new(),
            over: CancellationToken::new(),
            last: TaskTracker::new(),
        }
    }

    /// Resolves when draining begins.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Whether draining has begun.
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Resolves when the grace period is over and everything must end at once; also once everything has drained.
    pub async fn forced(&self) {
        self.force.cancelled().await;
    }

    /// A token of the caller's own that is cancelled when draining begins. Thousands of tasks that look at each wake-up
    /// would meet at one lock in [`Shutdown::draining`]; each child has its own.
    pub fn drain_token(&self) -> CancellationToken {
        self.drain.child_token()
    }

    /// The same for [`Shutdown::forced`].
    pub fn force_token(&self) -> CancellationToken {
        self.force.child_token()
    }

    /// Spawns a task that shutdown waits for. It should end by itself after `draining`, and is expected to end at once
    /// after `forced`. Allowed while draining, too: what finishes old work may need helpers of its own.
    pub fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(task)
    }

    /// The same on another runtime than the present one.
    pub(crate) fn spawn_on<F>(&self, task: F, runtime: &tokio::runtime::Handle) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn_on(task, runtime)
    }

    /// Spawns a task that outlives all work: it is expected to end soon after [`Shutdown::over`], and left behind otherwise.
    pub fn spawn_last(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.last.spawn(task);
    }

    /// Resolves when all work has ended.
    pub async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Begins draining.
    pub fn begin(&self) {
        self.drain.cancel();
    }

    /// Ends the grace period now, as a second signal does. Begins draining if that has not begun.
    pub fn force(&self) {
        self.drain.cancel();
        self.force.cancel();
    }

    /// Begins draining, waits for every task up to `grace`, then forces the rest and waits for them for at most
    /// [`FORCE_WAIT`]. Must not be called from a task of this shutdown: it would wait for itself.
    pub async fn run(&self, grace: Duration) -> Outcome {
        self.begin();
        self.tracker.close();
        tokio::select! {
            biased;
            () = self.tracker.wait() => {}
            () = self.force.cancelled() => {}
            () = tokio::time::sleep(grace) => {}
        }
        let cut = self.tracker.len();
        self.force.cancel();
        if cut > 0 {
            // Running into the limit changes nothing about the answer: those tasks were cut either way.
            let _ = tokio::time::timeout(FORCE_WAIT, self.tracker.wait()).await;
        }
        self.over.cancel();
        self.last.close();
        let _ = tokio::time::timeout(FORCE_WAIT, self.last.wait()).await;
        if cut == 0 { Outcome::Drained } else { Outcome::Forced(cut) }
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

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    const GRACE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn drain_ends_as_soon_as_the_last_task_has_ended() {
        let shutdown = Shutdown::new();
        shutdown.spawn({
            let shutdown = shutdown.clone();
            async move {
                shutdown.draining().await;
                sleep(Duration::from_secs(3)).await;
            }
        });
        let began = Instant::now();
        assert_eq!(shutdown.run(GRACE).await, Outcome::Drained);
        assert_eq!(began.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_that_outlive_the_grace_period_are_forced_and_counted() {
        let shutdown = Shutdown::new();
        for _ in 0..2 {
            let tasks = shutdown.clone();
            shutdown.spawn(async move { tasks.forced().await });
        }
        shutdown.spawn(async {});
        let began = Instant::now();
        assert_eq!(shutdown.run(GRACE).await, Outcome::Forced(2));
        assert_eq!(began.elapsed(), GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn last_tasks_see_the_end_of_all_work_and_delay_it_by_no_more_than_the_force_wait() {
        let shutdown = Shutdown::new();
        let work = shutdown.clone();
        shutdown.spawn(async move {
            work.draining().await;
            sleep(Duration::from_secs(3)).await;
        });
        let last = shutdown.clone();
        let began = Instant::now();
        let (told, seen) = tokio::sync::oneshot::channel();
        shutdown.spawn_last(async move {
            last.over().await;
            told.send(began.elapsed()).unwrap();
        });
        shutdown.spawn_last(std::future::pending());
        assert_eq!(shutdown.run(GRACE).await, Outcome::Drained);
        assert_eq!(seen.await.unwrap(), Duration::from_secs(3));
        assert_eq!(began.elapsed(), Duration::from_secs(3) + FORCE_WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ignores_force_delays_the_end_by_no_more_than_the_force_wait() {
        let shutdown = Shutdown::new();
        shutdown.spawn(std::future::pending::<()>());
        let began = Instant::now();
        assert_eq!(shutdown.run(GRACE).await, Outcome::Forced(1));
        assert_eq!(began.elapsed(), GRACE + FORCE_WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn force_ends_the_grace_period_at_once() {
        let shutdown = Shutdown::new();
        let task = shutdown.clone();
        shutdown.spawn(async move { task.forced().await });
        let began = Instant::now();
        let (outcome, ()) = tokio::join!(shutdown.run(GRACE), async {
            sleep(Duration::from_secs(1)).await;
            shutdown.force();
        });
        assert_eq!(outcome, Outcome::Forced(1));
        assert_eq!(began.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn work_started_while_draining_is_waited_for() {
        let shutdown = Shutdown::new();
        shutdown.spawn({
            let shutdown = shutdown.clone();
            async move {
                shutdown.draining().await;
                shutdown.spawn(sleep(Duration::from_secs(7)));
            }
        });
        let began = Instant::now();
        assert_eq!(shutdown.run(GRACE).await, Outcome::Drained);
        assert_eq!(began.elapsed(), Duration::from_secs(7));
    }

    #[tokio::test]
    async fn what_waits_for_force_ends_after_a_clean_drain_too() {
        let shutdown = Shutdown::new();
        assert_eq!(shutdown.run(GRACE).await, Outcome::Drained);
        shutdown.forced().await;
        assert!(shutdown.is_draining());
    }
}
