//! A bounded number of places, each held by a guard.
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// So many places.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    left: Arc<AtomicUsize>,
}

/// One of them, given back on drop.
#[derive(Debug)]
pub(crate) struct Place {
    left: Arc<AtomicUsize>,
}

impl Share {
    pub(crate) fn new(places: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(places)) }
    }

    /// Takes a place, if there is one.
    pub(crate) fn take(&self) -> Option<Place> {
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .ok()
            .map(|_| Place { left: self.left.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.left.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_when_its_holder_goes() {
        let share = Share::new(1);
        let place = share.take().unwrap();
        assert!(share.take().is_none());
        drop(place);
        assert!(share.take().is_some());
    }
}
