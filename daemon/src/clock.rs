//! The one clock that everything asks, so that tests can move time. Life times use the monotonic reading, comparisons
//! between processes the wall clock.
use std::{
    fmt,
    sync::Arc,
    time::{Instant, SystemTime},
};

/// Source of both readings.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Wall clock.
    fn now(&self) -> SystemTime;
    /// Monotonic clock.
    fn instant(&self) -> Instant;
}

/// How a clock is handed around.
pub type SharedClock = Arc<dyn Clock>;

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

/// A clock that tests move by hand: `Manual::new(start)`, `advance(Duration)`, `step_wall(i64 seconds)`.
#[derive(Debug)]
pub struct Manual {}
