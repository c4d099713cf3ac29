//! How long one direction of a stream has waited because whoever comes next did not take what there was: flow control at
//! work. What never waits costs no look at the clock.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

/// Time that a direction was blocked. Clones are the same direction.
#[derive(Debug, Clone, Default)]
pub struct Blocked(Arc<AtomicU64>);

impl Blocked {
    /// Does something that waits for the next hop, and counts the wait, also one that is given up.
    pub async fn on<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        // Mostly there is room. The waker is not needed: a pending work is polled again at once, with the task's own.
        if let Poll::Ready(output) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
        let _wait = Wait { since: Instant::now(), blocked: self };
        work.await
    }

    /// Counts a wait that was measured elsewhere.
    pub fn add(&self, wait: Duration) {
        self.0.fetch_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// All of it.
    pub fn total(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

struct Wait<'a> {
    since: Instant,
    blocked: &'a Blocked,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.blocked.add(self.since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_waits_count_and_one_that_is_given_up_does_too() {
        let blocked = Blocked::default();
        assert_eq!(blocked.on(async { 7 }).await, 7);
        assert_eq!(blocked.total(), Duration::ZERO);
        let (told, heard) = tokio::sync::oneshot::channel();
        let (got, ()) = tokio::join!(blocked.on(heard), async {
            tokio::task::yield_now().await;
            told.send(()).unwrap();
        });
        got.unwrap();
        let once = blocked.total();
        assert!(once > Duration::ZERO);
        let given_up = tokio::time::timeout(Duration::from_millis(5), blocked.on(std::future::pending::<()>())).await;
        assert!(given_up.is_err() && blocked.total() >= once + Duration::from_millis(4));
    }
}
