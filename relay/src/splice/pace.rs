//! A shared rate in bytes per second, which may change: what was moved too fast is waited for afterwards.
//!
//! All splices of a hybrid connection take from one account. It may go into debt by what one read brings; whoever finds
//! it in debt waits until it is paid, so nobody needs to know the others and no byte is refused.
use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
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
    /// 0 is without limit.
    bytes_per_second: AtomicU64,
    /// When everything moved so far is paid for.
    paid_at: Mutex<Instant>,
}

impl Pace {
    /// An account of its own; without a number nobody ever waits.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        let bytes_per_second = AtomicU64::new(bytes_per_second.unwrap_or_default());
        let account = Account { bytes_per_second, paid_at: Mutex::new(Instant::now()) };
        Self { account: Arc::new(account), waiting: None }
    }

    /// Changes the rate for all users. Who waits already does so to the end.
    pub fn change(&self, bytes_per_second: Option<u64>) {
        self.account.bytes_per_second.store(bytes_per_second.unwrap_or_default(), Relaxed);
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
        let bytes_per_second = self.account.bytes_per_second.load(Relaxed);
        if bytes_per_second == 0 {
            return;
        }
        let now = Instant::now();
        let mut paid_at = self.account.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        let base = (*paid_at).max(now.checked_sub(BURST).unwrap_or(now));
        *paid_at = base + Duration::from_secs_f64(bytes as f64 / bytes_per_second as f64);
        let debt = paid_at.saturating_duration_since(now);
        if !debt.is_zero() {
            self.waiting = Some(Box::pin(sleep(debt)));
        }
    }

    /// Counts bytes and waits until they are paid for.
    pub(crate) async fn pay(&mut self, bytes: usize) {
        self.spend(bytes as u64);
        poll_fn(|cx| self.poll_wait(cx)).await;
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
        let mut one = Pace::new(Some(1000));
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

    #[tokio::test(start_paused = true)]
    async fn a_changed_rate_counts_for_who_uses_it_already() {
        let mut pace = Pace::new(None);
        let began = Instant::now();
        pace.spend(u64::MAX);
        poll_fn(|cx| pace.poll_wait(cx)).await;
        assert!(began.elapsed().is_zero(), "no limit, no wait");
        pace.clone().change(Some(1000));
        pace.spend(2000);
        poll_fn(|cx| pace.poll_wait(cx)).await;
        let elapsed = began.elapsed();
        assert!((Duration::from_millis(1990)..Duration::from_millis(2010)).contains(&elapsed), "{elapsed:?}");
    }
}
