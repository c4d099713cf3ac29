//! When to try again: growing intervals with full jitter, a peer's hint obeyed within bounds, and a reset that only a
//! healthy spell earns.
//!
//! There is no clock here: the caller sleeps, and says how long a connection lived. The intervals come from the
//! `backoff` crate, used as a generator only and kept out of sight, so that it can be replaced in this file: its
//! exponential one, or its trait over a list. Jitter, hint and reset are ours.
use std::{fmt, time::Duration};

use backoff::{ExponentialBackoffBuilder, backoff::Backoff};

#[cfg(test)]
mod tests;

/// How to climb.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// Upper ends of the intervals.
    pub climb: Climb,
    /// Most of a peer's hint that is obeyed: a mistaken `Retry-After` must not take a site down for a day.
    pub hint_max: Duration,
    /// A connection that lived this long was healthy; the next failure starts at `first` again. A shorter one was a
    /// flap, which looks like success and must not count as one.
    pub healthy: Duration,
}

/// Upper ends of the intervals, in turn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Climb {
    /// Each longer than the one before by a factor.
    Exponential {
        /// The first.
        first: Duration,
        /// Growth per step.
        factor: f64,
        /// None is longer.
        cap: Duration,
    },
    /// As listed; the last one holds for all that follow.
    Steps(&'static [Duration]),
}

/// Tunnels: somebody's request may be waiting, so the first attempt comes at once and the cap stays within the patience
/// of a person at a screen. Half a minute of life is three liveness periods.
pub const TUNNEL: Policy = Policy {
    climb: Climb::Exponential { first: Duration::from_millis(250), factor: 2.0, cap: Duration::from_secs(15) },
    hint_max: Duration::from_secs(120),
    healthy: Duration::from_secs(30),
};

/// Listeners: the steps of Microsoft's SDKs. A single broken connection is back at once; after a relay restarts, the later
/// ones spread a thousand clusters over half a minute. A minute of life outlasts a relay that accepts and then closes.
pub const LISTENER: Policy = Policy {
    climb: Climb::Steps(&[
        Duration::ZERO,
        Duration::from_secs(1),
        Duration::from_secs(2),
        Duration::from_secs(5),
        Duration::from_secs(10),
        Duration::from_secs(30),
    ]),
    hint_max: Duration::from_secs(300),
    healthy: Duration::from_secs(60),
};

/// Draws from 0 (included) to 1 (excluded).
type Random = Box<dyn FnMut() -> f64 + Send>;

impl Climb {
    /// No interval is longer.
    pub fn cap(self) -> Duration {
        match self {
            Self::Exponential { cap, .. } => cap,
            Self::Steps(list) => list.iter().max().copied().unwrap_or_default(),
        }
    }
}

/// A list as a generator.
struct Steps {
    list: &'static [Duration],
    next: usize,
}

impl Backoff for Steps {
    fn next_backoff(&mut self) -> Option<Duration> {
        let step = self.list.get(self.next).or(self.list.last()).copied();
        self.next = self.next.saturating_add(1);
        step
    }

    fn reset(&mut self) {
        self.next = 0;
    }
}

/// One connection's place on the way up.
pub struct Ladder {
    policy: Policy,
    steps: Box<dyn Backoff + Send>,
    random: Random,
}

impl Ladder {
    /// Starts at the foot, with jitter from the system's generator.
    pub fn new(policy: Policy) -> Self {
        Self::with_random(policy, system_random)
    }

    /// The same with jitter from `random`, which draws from 0 (included) to 1 (excluded).
    pub fn with_random(policy: Policy, random: impl FnMut() -> f64 + Send + 'static) -> Self {
        let steps: Box<dyn Backoff + Send> = match policy.climb {
            Climb::Exponential { first, factor, cap } => Box::new(
                ExponentialBackoffBuilder::new()
                    .with_initial_interval(first)
                    .with_multiplier(factor)
                    .with_max_interval(cap)
                    .with_randomization_factor(0.0)
                    .with_max_elapsed_time(None)
                    .build(),
            ),
            Climb::Steps(list) => Box::new(Steps { list, next: 0 }),
        };
        Self { policy, steps, random: Box::new(random) }
    }

    /// How long to wait before the next attempt: a random part of this step's interval, on top of the peer's `hint`
    /// where it gave one, because everybody else was given the same. The next step is higher.
    pub fn next_wait(&mut self, hint: Option<Duration>) -> Duration {
        let cap = self.policy.climb.cap();
        // Without a limit on elapsed time no generator ends; the cap stands in for an answer it cannot give.
        let interval = self.steps.next_backoff().unwrap_or(cap).min(cap);
        let part = (self.random)().clamp(0.0, 1.0);
        hint.unwrap_or_default().min(self.policy.hint_max) + interval.mul_f64(part)
    }

    /// A connection was made and ended after `lived`. Back to the foot if that was a healthy spell.
    pub fn ended(&mut self, lived: Duration) {
        if lived >= self.policy.healthy {
            self.steps.reset();
        }
    }
}

impl fmt::Debug for Ladder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ladder").field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// Full jitter must differ between processes started together. Without random numbers the whole interval is waited.
fn system_random() -> f64 {
    let mut bytes = [0; 4];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0),
        Err(_) => 1.0,
    }
}
