//! Listeners of one hybrid connection through which no gateway proved itself (SD-9). Whoever stole the right to listen
//! gets a share of the senders; they are dialled past him while others are there.
//!
//! What is avoided is only a preference: it ends by itself, and at once when it leaves nobody to talk to, because a trust
//! file that was out of date makes every honest listener look like a thief.
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// As many as Azure lets listen on one hybrid connection; of more the oldest is forgotten.
const LISTENERS_MAX: usize = 25;

/// For how long. A thief who stays is met once in this time by each connector.
const AVOIDED_FOR: Duration = Duration::from_secs(600);

/// The avoided listeners, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Avoided {
    listeners: Mutex<VecDeque<(String, Instant)>>,
}

impl Avoided {
    /// Their ids.
    pub(super) fn ids(&self) -> Vec<String> {
        let mut listeners = self.locked();
        while listeners.front().is_some_and(|(_, since)| since.elapsed() >= AVOIDED_FOR) {
            listeners.pop_front();
        }
        listeners.iter().map(|(id, _)| id.clone()).collect()
    }

    /// One more.
    pub(super) fn add(&self, id: &str) {
        let mut listeners = self.locked();
        listeners.retain(|(known, _)| known != id);
        if listeners.len() == LISTENERS_MAX {
            listeners.pop_front();
        }
        listeners.push_back((id.to_owned(), Instant::now()));
    }

    /// None any more.
    pub(super) fn forget(&self) {
        self.locked().clear();
    }

    fn locked(&self) -> MutexGuard<'_, VecDeque<(String, Instant)>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_listener_is_avoided_for_its_time_from_the_last_meeting() {
        let avoided = Avoided::default();
        avoided.add("a");
        tokio::time::advance(AVOIDED_FOR / 2).await;
        avoided.add("b");
        avoided.add("a");
        assert_eq!(avoided.ids(), ["b", "a"]);
        tokio::time::advance(AVOIDED_FOR - Duration::from_millis(1)).await;
        assert_eq!(avoided.ids(), ["b", "a"]);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(avoided.ids().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_is_forgotten_beyond_the_limit() {
        let avoided = Avoided::default();
        for number in 0..=LISTENERS_MAX {
            avoided.add(&number.to_string());
        }
        let ids = avoided.ids();
        assert_eq!((ids.len(), ids[0].as_str()), (LISTENERS_MAX, "1"));
        avoided.forget();
        assert!(avoided.ids().is_empty());
    }
}
