//! What one listener came to: how often it was asked, and whether it answers.
//!
//! A listener that is asked and does not answer costs its senders time, and its control channel may still look alive.
//! After [`MISSES`] in a row it is unresponsive: for a while it is asked only when nobody else is there. The while grows
//! as long as it does not answer; one answer ends it.
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{entities::Entity, events::Teller, listeners::Listener};

/// Unanswered in a row until a listener counts as unresponsive: one may be bad luck, and two a burst.
const MISSES: u32 = 3;

/// How long an unresponsive listener is passed over, the first time. It doubles each time.
const PASSED_OVER: Duration = Duration::from_secs(30);

/// The longest that it is passed over: then a sender tries it again.
const PASSED_OVER_MAX: Duration = Duration::from_secs(600);

/// Who gives up at the end of a listener's time may do so a moment before this clock has noticed.
const MOMENT: Duration = Duration::from_millis(50);

/// What is known about a listener.
#[derive(Debug)]
pub(crate) struct Record {
    /// When it connected.
    pub(crate) since: SystemTime,
    /// Whose token it came with.
    pub(crate) holder: String,
    given: AtomicU64,
    failed: AtomicU64,
    answers: Mutex<Answers>,
}

#[derive(Debug, Default)]
struct Answers {
    /// Unanswered since the last answer.
    misses: u32,
    /// Passed over until then.
    until: Option<Instant>,
}

impl Record {
    /// For a listener that has just connected.
    pub(crate) fn new(since: SystemTime, holder: String) -> Self {
        Self { since, holder, given: AtomicU64::new(0), failed: AtomicU64::new(0), answers: Mutex::default() }
    }

    /// Rendezvous and requests that it was given.
    pub(crate) fn given(&self) -> u64 {
        self.given.load(Relaxed)
    }

    /// Those of them that came to nothing through its fault.
    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// Whether others should be asked before it.
    pub(crate) fn is_unresponsive(&self) -> bool {
        self.answers().until.is_some_and(|until| Instant::now() < until)
    }

    /// True when it was unresponsive until now.
    fn answered(&self) -> bool {
        let mut answers = self.answers();
        answers.misses = 0;
        answers.until.take().is_some()
    }

    /// Gives the time for which it is passed over, if that begins now.
    fn missed(&self) -> Option<Duration> {
        self.failed.fetch_add(1, Relaxed);
        let mut answers = self.answers();
        answers.misses = answers.misses.saturating_add(1);
        let now = Instant::now();
        if answers.misses < MISSES || answers.until.is_some_and(|until| now < until) {
            return None;
        }
        let doubled = 1_u32.checked_shl(answers.misses - MISSES).unwrap_or(u32::MAX);
        let time = PASSED_OVER.saturating_mul(doubled).min(PASSED_OVER_MAX);
        answers.until = Some(now + time);
        Some(time)
    }

    fn answers(&self) -> std::sync::MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that a listener was given and has to answer. Dropped without a word, it counts as unanswered once the
/// listener had its time; before, somebody else was faster or the sender left, and nothing is to be said.
#[derive(Debug)]
pub(crate) struct Given {
    entity: Arc<Entity>,
    listener: Arc<Listener>,
    teller: Teller,
    at: Instant,
    patience: Duration,
    settled: bool,
}

impl Given {
    /// The listener is asked now and should answer within `patience`.
    pub(crate) fn new(entity: &Arc<Entity>, listener: &Arc<Listener>, teller: &Teller, patience: Duration) -> Self {
        listener.record.given.fetch_add(1, Relaxed);
        Self {
            entity: entity.clone(),
            listener: listener.clone(),
            teller: teller.clone(),
            at: Instant::now(),
            patience,
            settled: false,
        }
    }

    /// It answered, be it with a refusal.
    pub(crate) fn answered(mut self) {
        self.settled = true;
        self.entity.metrics.answer_seconds.observe(self.at.elapsed().as_secs_f64());
        if self.listener.record.answered() {
            self.teller.responsive(&self.entity, &self.listener);
        }
    }

    /// It went away, or did what no listener should.
    pub(crate) fn failed(mut self) {
        self.settled = true;
        self.listener.record.failed.fetch_add(1, Relaxed);
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        if self.settled || self.at.elapsed() + MOMENT < self.patience {
            return;
        }
        self.entity.metrics.unanswered.inc();
        if let Some(time) = self.listener.record.missed() {
            self.teller.unresponsive(&self.entity, &self.listener, time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record::new(SystemTime::now(), "rule".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn three_misses_in_a_row_make_a_listener_unresponsive_for_a_while() {
        let record = record();
        assert_eq!((record.missed(), record.missed()), (None, None));
        assert!(!record.answered() && !record.is_unresponsive());
        assert_eq!((record.missed(), record.missed()), (None, None), "an answer starts the count anew");
        assert_eq!(record.missed(), Some(PASSED_OVER));
        assert!(record.is_unresponsive());
        tokio::time::advance(PASSED_OVER - Duration::from_millis(1)).await;
        assert!(record.is_unresponsive());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!record.is_unresponsive());
        assert_eq!(record.failed(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_passed_over_ever_longer_until_it_answers() {
        let record = record();
        for _ in 0..MISSES {
            record.missed();
        }
        let mut times = Vec::new();
        for _ in 0..40 {
            assert_eq!(record.missed(), None, "misses while it is passed over change nothing");
            tokio::time::advance(PASSED_OVER_MAX).await;
            times.push(record.missed().unwrap());
        }
        assert!(times.is_sorted() && times[39] == PASSED_OVER_MAX, "{times:?}");
        assert!(record.answered() && !record.is_unresponsive());
        assert!(!record.answered());
    }
}
