//! How large the stream window is: S doubles, up to a limit, while a stream moves more than S/2 in one round trip,
//! because then the window and not the path is what limits it. It halves, down to a limit, each time that the budget of
//! what is held presses, and does not grow before it is relieved.
//!
//! Each stream measures itself where its bytes are *taken*, so a stalled reader never makes windows grow; the clock is
//! read once per S/2 bytes. The round trip used is the shortest that PING has seen: under load the others also measure
//! queues, and would make every bulk transfer grow to the limit.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::limits::{STREAM_WINDOW_MAX, STREAM_WINDOW_MIN};

/// What one connection knows of its path. Shared by its driver and its streams.
#[derive(Debug)]
pub(super) struct Pace {
    window: AtomicU32,
    grow: AtomicBool,
    shrink: AtomicBool,
    pressed: AtomicBool,
    /// Nanoseconds; `u64::MAX` while nothing was measured.
    last: AtomicU64,
    shortest: AtomicU64,
}

impl Pace {
    pub(super) fn new(window: u32) -> Self {
        Self {
            window: AtomicU32::new(window),
            grow: AtomicBool::new(false),
            shrink: AtomicBool::new(false),
            pressed: AtomicBool::new(false),
            last: AtomicU64::new(u64::MAX),
            shortest: AtomicU64::new(u64::MAX),
        }
    }

    pub(super) fn measured(&self, round_trip: Duration) {
        let nanos = u64::try_from(round_trip.as_nanos()).unwrap_or(u64::MAX - 1);
        self.last.store(nanos, Relaxed);
        self.shortest.fetch_min(nanos, Relaxed);
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        let nanos = self.last.load(Relaxed);
        (nanos != u64::MAX).then(|| Duration::from_nanos(nanos))
    }

    /// The window that is wanted now, if it differs from the present one.
    pub(super) fn wanted(&self) -> Option<u32> {
        let window = self.window.load(Relaxed);
        let wanted = if self.shrink.load(Relaxed) {
            (window / 2).max(STREAM_WINDOW_MIN).min(window)
        } else if self.grow.load(Relaxed) && !self.pressed.load(Relaxed) {
            window.saturating_mul(2).min(STREAM_WINDOW_MAX).max(window)
        } else {
            window
        };
        (wanted != window).then_some(wanted)
    }

    /// Too much is held.
    pub(super) fn press(&self) {
        self.pressed.store(true, Relaxed);
        self.shrink.store(true, Relaxed);
    }

    /// No longer.
    pub(super) fn relax(&self) {
        self.pressed.store(false, Relaxed);
        self.shrink.store(false, Relaxed);
    }

    /// The peer has been told of `window`.
    pub(super) fn set(&self, window: u32) {
        self.window.store(window, Relaxed);
        self.grow.store(false, Relaxed);
        self.shrink.store(false, Relaxed);
    }
}

/// One stream's measure of itself.
#[derive(Debug)]
pub(super) struct Meter {
    pace: Arc<Pace>,
    moved: usize,
    since: Option<Instant>,
}

impl Meter {
    pub(super) fn new(pace: Arc<Pace>) -> Self {
        Self { pace, moved: 0, since: None }
    }

    pub(super) fn taken(&mut self, bytes: usize) {
        self.moved += bytes;
        if self.moved <= self.pace.window.load(Relaxed) as usize / 2 {
            return;
        }
        let now = Instant::now();
        let shortest = self.pace.shortest.load(Relaxed);
        if shortest != u64::MAX && self.since.is_some_and(|since| now - since < Duration::from_nanos(shortest)) {
            self.pace.grow.store(true, Relaxed);
        }
        self.moved = 0;
        self.since = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u32 = 1 << 20;

    fn half_windows(pace: &Arc<Pace>, count: usize) -> Meter {
        let mut meter = Meter::new(pace.clone());
        (0..count).for_each(|_| meter.taken(S as usize / 2 + 1));
        meter
    }

    #[tokio::test(start_paused = true)]
    async fn doubles_when_a_stream_moves_half_a_window_within_one_round_trip() {
        let pace = Arc::new(Pace::new(S));
        pace.measured(Duration::from_millis(50));
        let mut meter = half_windows(&pace, 1);
        assert_eq!(pace.wanted(), None, "one mark measures nothing yet");
        tokio::time::advance(Duration::from_millis(40)).await;
        meter.taken(S as usize / 2 + 1);
        assert_eq!(pace.wanted(), Some(2 * S));
    }

    #[tokio::test(start_paused = true)]
    async fn slower_stream_does_not_grow_windows() {
        let pace = Arc::new(Pace::new(S));
        pace.measured(Duration::from_millis(50));
        let mut meter = half_windows(&pace, 1);
        tokio::time::advance(Duration::from_millis(60)).await;
        meter.taken(S as usize / 2 + 1);
        assert_eq!(pace.wanted(), None);
    }

    #[test]
    fn nothing_grows_before_a_round_trip_is_known() {
        let pace = Arc::new(Pace::new(S));
        half_windows(&pace, 10);
        assert_eq!(pace.wanted(), None);
    }

    #[test]
    fn halves_each_time_that_it_is_pressed_and_grows_again_when_it_is_relieved() {
        let pace = Arc::new(Pace::new(STREAM_WINDOW_MIN * 3));
        pace.press();
        let half = pace.wanted().unwrap();
        assert_eq!(half, STREAM_WINDOW_MIN * 3 / 2);
        pace.set(half);
        assert_eq!(pace.wanted(), None, "once for each time");
        pace.grow.store(true, Relaxed);
        assert_eq!(pace.wanted(), None, "nothing grows under pressure");
        pace.press();
        pace.set(pace.wanted().unwrap());
        pace.press();
        assert_eq!((pace.wanted(), pace.window.load(Relaxed)), (None, STREAM_WINDOW_MIN), "no smaller than that");
        pace.relax();
        pace.grow.store(true, Relaxed);
        assert_eq!(pace.wanted(), Some(STREAM_WINDOW_MIN * 2));
    }

    #[test]
    fn stops_at_the_limit() {
        let pace = Arc::new(Pace::new(STREAM_WINDOW_MAX));
        pace.measured(Duration::from_secs(1));
        let mut meter = Meter::new(pace.clone());
        (0..4).for_each(|_| meter.taken(STREAM_WINDOW_MAX as usize));
        assert_eq!(pace.wanted(), None);
    }
}
