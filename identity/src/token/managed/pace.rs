//! How often a metadata service is asked. IMDS allows a machine 20 identity requests a second and 5 at a time, shared by
//! everything on it; we take a part of that, so that a cold start with many audiences throttles nobody, ourselves included.
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep_until, timeout_at},
};

use crate::token::{ErrorCode, TokenError, answer::Budget};

/// Requests at a time.
const AT_ONCE: usize = 2;

/// Between the beginnings of two requests: five a second.
const APART: Duration = Duration::from_millis(200);

/// Gives turns.
#[derive(Debug)]
pub(super) struct Pace {
    at_once: Semaphore,
    next: Mutex<Option<Instant>>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { at_once: Semaphore::new(AT_ONCE), next: Mutex::default() }
    }
}

impl Pace {
    /// Waits for a turn; it lasts as long as the permit is held. A turn that would not come in time is refused.
    pub(super) async fn turn(&self, budget: Budget) -> Result<SemaphorePermit<'_>, TokenError> {
        let late = || {
            let message = "too many other requests of this process wait for the same endpoint";
            TokenError::new(ErrorCode::SourceThrottled, message)
        };
        let permit = timeout_at(budget.until(), self.at_once.acquire()).await;
        // The semaphore is never closed.
        let permit = permit.ok().and_then(Result::ok).ok_or_else(late)?;
        let turn = self.take(budget.until()).ok_or_else(late)?;
        sleep_until(turn).await;
        Ok(permit)
    }

    fn take(&self, until: Instant) -> Option<Instant> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let turn = next.map_or(now, |next| next.max(now));
        if turn >= until {
            return None;
        }
        *next = Some(turn + APART);
        Some(turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_come_five_a_second_and_two_at_a_time() {
        let (pace, began) = (Pace::default(), Instant::now());
        let budget = Budget::new(Duration::from_secs(10));
        for _ in 0..6 {
            drop(pace.turn(budget).await.unwrap());
        }
        assert_eq!(began.elapsed(), 5 * APART);
        let (_one, _two) = (pace.turn(budget).await.unwrap(), pace.turn(budget).await.unwrap());
        let third = pace.turn(budget).await.unwrap_err();
        assert_eq!(third.code, ErrorCode::SourceThrottled);
        assert_eq!(began.elapsed(), Duration::from_secs(10), "it waits no longer than the fetch may take");
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_comes_too_late_is_refused_at_once() {
        let pace = Pace::default();
        let _first = pace.turn(Budget::new(APART)).await.unwrap();
        let began = Instant::now();
        assert_eq!(pace.turn(Budget::new(APART)).await.unwrap_err().code, ErrorCode::SourceThrottled);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
