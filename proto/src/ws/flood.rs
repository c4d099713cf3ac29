//! A bound on frames that carry nothing. Control frames and empty data frames cost the receiver a wake-up each and the
//! sender two bytes; nobody honest sends many of them without data in between.
//!
//! Time is passed in: a connection that only exchanges pings for days stays welcome.
use std::time::Duration;

use tokio::time::Instant;

use super::frame::DecodeError;

/// Frames without payload taken per window when no data comes between them. Ten a second is several times what any
/// known client sends, pings, pongs and empty bodies together, and far below what would cost a noticeable part of a core.
pub const EMPTY_FRAMES_MAX: u32 = 100;

/// After this long the count starts again.
pub const WINDOW: Duration = Duration::from_secs(10);

/// Counts the frames without payload of one direction.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowance {
    count: u32,
    since: Option<Instant>,
}

impl Allowance {
    /// A control frame or an empty data frame arrived at `now`. Fails with [`DecodeError::Flood`] when there are more
    /// than [`EMPTY_FRAMES_MAX`] in [`WINDOW`].
    pub fn spend(&mut self, now: Instant) -> Result<(), DecodeError> {
        match self.since {
            Some(since) if now.duration_since(since) < WINDOW => self.count += 1,
            _ => (self.count, self.since) = (1, Some(now)),
        }
        if self.count > EMPTY_FRAMES_MAX { Err(DecodeError::Flood) } else { Ok(()) }
    }

    /// Payload of a data frame arrived: the count starts again.
    pub fn earn(&mut self) {
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_window_takes_its_allowance_and_no_more() {
        let (mut allowance, now) = (Allowance::default(), Instant::now());
        for _ in 0..EMPTY_FRAMES_MAX {
            assert_eq!(allowance.spend(now), Ok(()));
        }
        assert_eq!(allowance.spend(now), Err(DecodeError::Flood));
    }

    #[test]
    fn data_between_renews_the_allowance() {
        let (mut allowance, now) = (Allowance::default(), Instant::now());
        for _ in 0..10 * EMPTY_FRAMES_MAX {
            assert_eq!(allowance.spend(now), Ok(()));
            allowance.earn();
        }
    }

    #[test]
    fn steady_pings_for_days_are_welcome() {
        let (mut allowance, mut now) = (Allowance::default(), Instant::now());
        for _ in 0..100_000 {
            assert_eq!(allowance.spend(now), Ok(()));
            now += Duration::from_secs(1);
        }
    }
}
