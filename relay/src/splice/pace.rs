//! A shared rate in bytes per second, which may change: what was moved too fast is waited for afterwards.
//!
//! All splices of a hybrid connection take from one account. It may go into debt by what one read brings; whoever finds
//! it in debt waits until it is paid, so nobody needs to know the others and no byte is refused. Who comes anew waits as
//! well, and what was to be moved and was not is given back: so the debt does not grow by who comes and goes.
use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
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

    /// Whether what was moved is yet to be waited for.
    pub(crate) fn is_in_debt(&self) -> bool {
        self.waiting.as_ref().is_some_and(|waiting| waiting.deadline() > Instant::now())
    }

    /// For somebody who has moved nothing yet, and finds the debt of those before.
    pub(crate) fn entered(&self) -> Self {
        let mut own = self.clone();
        if self.account.bytes_per_second.load(Relaxed) > 0 {
            let paid_at = *self.account.paid_at();
            own.wait_until(paid_at);
        }
        own
    }

    /// Bytes were moved; gives what they cost.
    pub(crate) fn spend(&mut self, bytes: u64) -> Duration {
        let bytes_per_second = self.account.bytes_per_second.load(Relaxed);
        if bytes_per_second == 0 {
            return Duration::ZERO;
        }
        let now = Instant::now();
        let cost = Duration::from_secs_f64(bytes as f64 / bytes_per_second as f64);
        let paid = {
            let mut paid_at = self.account.paid_at();
            *paid_at = (*paid_at).max(now.checked_sub(BURST).unwrap_or(now)) + cost;
            *paid_at
        };
        self.wait_until(paid);
        cost
    }

    /// Counts bytes and waits until they are paid for. Dropped before, it has moved nothing and owes nothing.
    pub(crate) async fn pay(&mut self, bytes: usize) {
        let mut owed = Owed { account: self.account.clone(), cost: Duration::ZERO };
        owed.cost = self.spend(bytes as u64);
        poll_fn(|cx| self.poll_wait(cx)).await;
        owed.cost = Duration::ZERO;
    }

    fn wait_until(&mut self, paid_at: Instant) {
        let debt = paid_at.saturating_duration_since(Instant::now());
        if !debt.is_zero() {
            self.waiting = Some(Box::pin(sleep(debt)));
        }
    }
}

impl Account {
    fn paid_at(&self) -> MutexGuard<'_, Instant> {
        self.paid_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is given back on drop.
struct Owed {
    account: Arc<Account>,
    cost: Duration,
}

impl Drop for Owed {
    fn drop(&mut self) {
        let mut paid_at = self.account.paid_at();
        *paid_at = paid_at.checked_sub(self.cost).unwrap_or(*paid_at);
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

    #[tokio::test(start_paused = true)]
    async fn who_leaves_before_it_has_paid_leaves_no_debt_behind() {
        let pace = Pace::new(Some(1000));
        for _ in 0..100 {
            let mut leaving = pace.clone();
            let left = tokio::time::timeout(Duration::from_millis(10), leaving.pay(60_000));
            assert!(left.await.is_err(), "it would wait for a minute");
        }
        let began = Instant::now();
        pace.clone().pay(1000).await;
        assert!(began.elapsed() <= Duration::from_secs(1), "{:?}", began.elapsed());
        pace.clone().pay(1000).await;
        assert!(began.elapsed() >= Duration::from_millis(1700), "what was paid is not given back");
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_anew_waits_for_the_debt_of_those_before() {
        let pace = Pace::new(Some(1000));
        let began = Instant::now();
        for _ in 0..10 {
            let mut next = pace.entered();
            poll_fn(|cx| next.poll_wait(cx)).await;
            // It leaves without waiting for what it moved.
            next.spend(1000);
        }
        let elapsed = began.elapsed();
        assert!((Duration::from_millis(8500)..Duration::from_millis(9500)).contains(&elapsed), "{elapsed:?}");
    }
}
