//! Randomness for jitter, in one place. What must be unguessable is made by `Secret::random`.
use std::{fmt, sync::Arc};

/// A source of fractions, so that tests can choose them.
#[derive(Clone)]
pub struct Chance(Arc<dyn Fn() -> f64 + Send + Sync>);

impl Chance {
    /// A source that asks `next` for each fraction in [0, 1).
    pub fn new(next: impl Fn() -> f64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(next))
    }

    /// A fraction in [0, 1).
    pub fn fraction(&self) -> f64 {
        (self.0)()
    }
}

impl Default for Chance {
    fn default() -> Self {
        Self::new(fraction)
    }
}

impl fmt::Debug for Chance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chance")
    }
}

/// A random fraction in [0, 1). Half, should the operating system have no randomness: jitter is not worth a panic.
pub(crate) fn fraction() -> f64 {
    let mut bytes = [0_u8; 4];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_be_bytes(bytes)) / (f64::from(u32::MAX) + 1.0),
        Err(_) => 0.5,
    }
}
