//! So many a second, with one second's worth saved up for a burst.
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::share::Excess;

/// What may be saved up.
const BURST: Duration = Duration::from_secs(1);

/// A limit on how often something happens.
#[derive(Debug)]
pub(crate) struct Rate {
    limit: &'static str,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    per_second: Option<usize>,
    due: Due,
    /// Asked for since a second began, those that were refused included.
    asked: usize,
    second: Instant,
}

/// When the next one may happen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Due(Instant);

impl Due {
    /// With a whole burst saved up.
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self(now.checked_sub(BURST).unwrap_or(now))
    }

    /// Takes the next turn: how long until it comes.
    pub(crate) fn take(&mut self, per_second: usize) -> Duration {
        let now = Instant::now();
        let wait = self.wait();
        let base = self.0.max(now.checked_sub(BURST).unwrap_or(now));
        self.0 = base + BURST / u32::try_from(per_second.max(1)).unwrap_or(u32::MAX);
        wait
    }

    /// Whether it has a whole burst saved up, like one that was never used.
    pub(crate) fn is_fresh(&self) -> bool {
        self.0.elapsed() >= BURST
    }

    /// How long until the next turn comes.
    pub(crate) fn wait(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

impl Rate {
    /// `limit` is the name in the configuration; without a number everything is allowed.
    pub(crate) fn new(limit: &'static str, per_second: Option<usize>) -> Self {
        let state = State { per_second, due: Due::new(), asked: 0, second: Instant::now() };
        Self { limit, state: Mutex::new(state) }
    }

    /// Changes the number.
    pub(crate) fn change(&self, per_second: Option<usize>) {
        self.state().per_second = per_second;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Once more, unless that is too often.
    pub(crate) fn take(&self) -> Result<(), Excess> {
        let mut state = self.state();
        let Some(per_second) = state.per_second else { return Ok(()) };
        if state.second.elapsed() >= BURST {
            (state.asked, state.second) = (0, Instant::now());
        }
        state.asked += 1;
        let again = state.due.wait();
        if again.is_zero() {
            state.due.take(per_second);
            return Ok(());
        }
        Err(Excess { limit: self.limit, value: per_second, current: state.asked, again })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_second_passes_at_once_and_then_each_in_its_turn() {
        let rate = Rate::new("limits.requests_per_second", Some(10));
        assert_eq!((0..20).filter(|_| rate.take().is_ok()).count(), 11, "one second saved up, and the one that is due");
        let excess = rate.take().unwrap_err();
        assert_eq!((excess.value, excess.current), (10, 21));
        assert_eq!(excess.again, Duration::from_millis(100));
        tokio::time::advance(Duration::from_millis(99)).await;
        assert!(rate.take().is_err());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(rate.take().is_ok() && rate.take().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_spaced() {
        let mut due = Due::new();
        let waits: Vec<u64> = (0..6).map(|_| u64::try_from(due.take(2).as_millis()).unwrap()).collect();
        assert_eq!(waits, [0, 0, 0, 500, 1000, 1500]);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(due.wait(), Duration::ZERO);
    }
}
