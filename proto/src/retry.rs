//! When to try again: growing intervals with full jitter, a peer's hint obeyed within bounds, and a reset that only a
//! healthy spell earns.
//!
//! There is no clock here: the caller sleeps, and says how long a connection lived.
use std::{fmt, time::Duration};

#[cfg(test)]
mod tests;

/// How to climb.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// Upper end of each interval in turn; the last one holds for all that follow.
    pub steps: &'static [Duration],
    /// Most of a peer's hint that is obeyed: a mistaken `Retry-After` must not take a site down for a day.
    pub hint_max: Duration,
    /// A connection that lived this long was healthy; the next failure starts at `first` again. A shorter one was a
    /// flap, which looks like success and must not count as one.
    pub healthy: Duration,
}

/// Tunnels: somebody's request may be waiting, so the first attempt comes at once and the cap stays within the patience
/// of a person at a screen. Half a minute of life is three liveness periods.
pub const TUNNEL: Policy = Policy {
    steps: &[
        Duration::from_millis(250),
        Duration::from_millis(500),
        Duration::from_secs(1),
        Duration::from_secs(2),
        Duration::from_secs(4),
        Duration::from_secs(8),
        Duration::from_secs(15),
    ],
    hint_max: Duration::from_secs(120),
    healthy: Duration::from_secs(30),
};

/// Listeners: the steps of Microsoft's SDKs. A single broken connection is back at once; after a relay restarts, the later
/// ones spread a thousand clusters over half a minute. A minute of life outlasts a relay that accepts and then closes.
pub const LISTENER: Policy = Policy {
    steps: &[
        Duration::ZERO,
        Duration::from_secs(1),
        Duration::from_secs(2),
        Duration::from_secs(5),
        Duration::from_secs(10),
        Duration::from_secs(30),
    ],
    hint_max: Duration::from_secs(300),
    healthy: Duration::from_secs(60),
};

/// Draws from 0 (included) to 1 (excluded).
type Random = Box<dyn FnMut() -> f64 + Send>;

/// One connection's place on the way up.
pub struct Ladder {
    policy: Policy,
    /// Index of the next step.
    at: usize,
    random: Random,
}

impl Ladder {
    /// Starts at the foot, with jitter from the system's generator.
    pub fn new(policy: Policy) -> Self {
        Self::with_random(policy, system_random)
    }

    /// The same with jitter from `random`, which draws from 0 (included) to 1 (excluded).
    pub fn with_random(policy: Policy, random: impl FnMut() -> f64 + Send + 'static) -> Self {
        Self { policy, at: 0, random: Box::new(random) }
    }

    /// How long to wait before the next attempt: a random part of this step's interval, on top of the peer's `hint`
    /// where it gave one, because everybody else was given the same. The next step is higher.
    pub fn next_wait(&mut self, hint: Option<Duration>) -> Duration {
        let interval = self.interval();
        self.at = self.at.saturating_add(1);
        let part = (self.random)().clamp(0.0, 1.0);
        hint.unwrap_or_default().min(self.policy.hint_max) + interval.mul_f64(part)
    }

    /// Upper end of the next interval. Without steps there is no pause.
    fn interval(&self) -> Duration {
        self.policy.steps.get(self.at).or(self.policy.steps.last()).copied().unwrap_or_default()
    }

    /// A connection was made and ended after `lived`. Back to the foot if that was a healthy spell.
    pub fn ended(&mut self, lived: Duration) {
        if lived >= self.policy.healthy {
            self.at = 0;
        }
    }
}

impl fmt::Debug for Ladder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ladder")
            .field("policy", &self.policy)
            .field("next_interval", &self.interval())
            .finish_non_exhaustive()
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
