//! When a hybrid connection lets its process be ready (SD-15): a control channel has been up since the start, or the
//! relay was unreachable for a while, which is reported and not fatal. Once ready, it stays so.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use daemon::admin::Readiness;
use tokio::time::{Duration, Instant};

use crate::sender::Address;

/// A relay that cannot be reached for so long no longer keeps this process from being ready: it does its part.
const UNREACHABLE: Duration = Duration::from_secs(60);

/// One hybrid connection's part in the readiness of its process.
#[derive(Debug, Clone, Default)]
pub(super) struct Ready {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    ready: bool,
    unreachable_since: Option<Instant>,
    problem: Option<String>,
}

impl Ready {
    /// Adds the check.
    pub(super) fn watch(readiness: &Readiness, address: &Address) -> Self {
        let this = Self::default();
        let (asked, address) = (this.clone(), address.to_string());
        readiness.check("control channel", move || {
            let mut state = asked.lock();
            state.ready |= state.unreachable_since.is_some_and(|since| since.elapsed() >= UNREACHABLE);
            if state.ready {
                return Ok(());
            }
            let problem = state.problem.as_deref().unwrap_or("being opened");
            Err(format!("no control channel to {address} yet: {problem}"))
        });
        this
    }

    /// A control channel is up.
    pub(super) fn up(&self) {
        let mut state = self.lock();
        (state.ready, state.unreachable_since, state.problem) = (true, None, None);
    }

    /// An attempt failed: nobody answered, or somebody refused.
    pub(super) fn failed(&self, is_unreachable: bool, problem: String) {
        let mut state = self.lock();
        state.unreachable_since =
            if is_unreachable { state.unreachable_since.or_else(|| Some(Instant::now())) } else { None };
        state.problem = Some(problem);
    }

    /// What went wrong last, while nothing has been right since.
    pub(super) fn problem(&self) -> Option<String> {
        self.lock().problem.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched() -> (Readiness, Ready) {
        let readiness = Readiness::default();
        let ready = Ready::watch(&readiness, &"sb://relay/e".parse().unwrap());
        (readiness, ready)
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_that_was_unreachable_for_a_minute_no_longer_keeps_us_from_being_ready() {
        let (readiness, ready) = watched();
        assert!(!readiness.is_ready());
        ready.failed(true, "no route".into());
        tokio::time::advance(UNREACHABLE - Duration::from_millis(1)).await;
        ready.failed(true, "no route".into());
        assert!(!readiness.is_ready());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(readiness.is_ready());
        ready.failed(false, "401".into());
        assert!(readiness.is_ready(), "once ready, always ready");
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_that_refuses_us_keeps_us_from_being_ready_for_ever() {
        let (readiness, ready) = watched();
        ready.failed(true, "no route".into());
        tokio::time::advance(UNREACHABLE / 2).await;
        ready.failed(false, "401".into());
        tokio::time::advance(UNREACHABLE).await;
        assert!(!readiness.is_ready());
        ready.failed(true, "no route".into());
        tokio::time::advance(UNREACHABLE / 2).await;
        assert!(!readiness.is_ready());
        ready.up();
        assert!(readiness.is_ready());
        assert_eq!(ready.problem(), None);
    }
}
