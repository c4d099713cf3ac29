//! A shared rate in bytes per second: what was moved too fast is waited for afterwards.
//!
//! All splices of a hybrid connection take from one account. It may go into debt by what one read brings; whoever finds
//! it in debt waits until it is paid, so nobody needs to know the others and no byte is refused.
use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

/// Unused time that may be saved up: a short burst after a pause passes at once.
const BURST: Duration = Duration::from_millis(250);

/// One user's view of a shared account.
#[derive(Debug)]
pub struct Pace {
    account: Arc<Account>,
    waiting: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
struct Account {
    bytes_per_second: u64,
    /// When everything moved so far is paid for.
    paid_at: Mutex<Instant>,
}

impl Pace {
    /// An account of its own.
    pub fn new(bytes_per_second: u64) -> Self {
        let account = Account { bytes_per_second: bytes_per_second.max(1), paid_at: Mutex::new(Instant::now()) };
        Self { account: Arc::new(account), waiting: None }
    }

    /// Ready when the account is not in debt.
    pub(crate) fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(waiting) = &mut self.waiting {
            ready!(waiting.as_mut().poll(cx));
            self.waiting = None;
        }
        Poll::Ready(())
    }

    /// Bytes were moved.
    pub(crate) fn spend(&mut self, bytes: u64) {
        let now = Instant::now();
        let mut paid_at = self.account.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        let base = (*paid_at).max(now.checked_sub(BURST).unwrap_or(now));
        *paid_at = base + Duration::from_secs_f64(bytes as f64 / self.account.bytes_per_second as f64);
        let debt = paid_at.saturating_duration_since(now);
        if !debt.is_zero() {
            self.waiting = Some(Box::pin(sleep(debt)));
        }
    }
}

impl Clone for Pace {
    fn clone(&self) -> Self {
        Self { account: self.account.clone(), waiting: None }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn two_users_share_one_rate() {
        let mut one = Pace::new(1000);
        let mut other = one.clone();
        let began = Instant::now();
        for _ in 0..10 {
            one.spend(500);
            other.spend(500);
            poll_fn(|cx| one.poll_wait(cx)).await;
            poll_fn(|cx| other.poll_wait(cx)).await;
        }
        let elapsed = began.elapsed();
        assert!((Duration::from_millis(9500)..Duration::from_millis(10_500)).contains(&elapsed), "{elapsed:?}");
    }
}
