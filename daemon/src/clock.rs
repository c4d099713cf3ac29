//! The one clock that everything asks, so that tests can move time. Life times use the monotonic reading, comparisons
//! between processes the wall clock.
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use time::{OffsetDateTime, macros::format_description};

/// Source of both readings.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Wall clock.
    fn now(&self) -> SystemTime;
    /// Monotonic clock.
    fn instant(&self) -> Instant;
}

/// How a clock is handed around.
pub type SharedClock = Arc<dyn Clock>;

/// A wall clock reading as RFC 3339 writes it, in UTC to the millisecond.
pub fn timestamp(at: SystemTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::from(at).format(format).unwrap_or_default()
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
    fn instant(&self) -> Instant {
        Instant::now()
    }
}

/// A clock that tests move by hand. It stands still otherwise.
#[derive(Debug)]
pub struct Manual {
    readings: Mutex<(SystemTime, Instant)>,
}

impl Manual {
    /// A clock that stands at `start`.
    pub fn new(start: SystemTime) -> Self {
        Self { readings: Mutex::new((start, Instant::now())) }
    }

    /// Lets time pass on both readings.
    pub fn advance(&self, by: Duration) {
        self.change(|(wall, monotonic)| (wall + by, monotonic + by));
    }

    /// Sets the wall clock forward or back by whole seconds, as an operator or NTP does; the monotonic reading stays.
    pub fn step_wall(&self, seconds: i64) {
        let by = Duration::from_secs(seconds.unsigned_abs());
        self.change(|(wall, monotonic)| (if seconds < 0 { wall - by } else { wall + by }, monotonic));
    }

    fn change(&self, to: impl FnOnce((SystemTime, Instant)) -> (SystemTime, Instant)) {
        let mut readings = self.readings.lock().unwrap_or_else(PoisonError::into_inner);
        *readings = to(*readings);
    }

    fn read(&self) -> (SystemTime, Instant) {
        *self.readings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for Manual {
    fn now(&self) -> SystemTime {
        self.read().0
    }
    fn instant(&self) -> Instant {
        self.read().1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_utc_to_the_millisecond() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(1_572_000_000_123_456);
        assert_eq!(timestamp(at), "2019-10-25T10:40:00.123Z");
    }

    #[test]
    fn time_stands_still_until_it_is_moved() {
        let clock = Manual::new(SystemTime::UNIX_EPOCH);
        let before = clock.instant();
        assert_eq!(clock.now(), SystemTime::UNIX_EPOCH);
        clock.advance(Duration::from_secs(5));
        assert_eq!(clock.now(), SystemTime::UNIX_EPOCH + Duration::from_secs(5));
        assert_eq!(clock.instant() - before, Duration::from_secs(5));
    }

    #[test]
    fn stepping_the_wall_clock_leaves_the_monotonic_one_alone() {
        let clock = Manual::new(SystemTime::UNIX_EPOCH + Duration::from_secs(100));
        let before = clock.instant();
        clock.step_wall(-40);
        clock.step_wall(10);
        assert_eq!(clock.now(), SystemTime::UNIX_EPOCH + Duration::from_secs(70));
        assert_eq!(clock.instant(), before);
    }
}
