//! What `/statusz` shows: one section per component, each asked when somebody looks.
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;

use super::Status;

type Section = Arc<dyn Fn() -> Value + Send + Sync>;

/// Sections of `/statusz`, by name. Cheap to clone; sections are set at start, a handful per component.
#[derive(Clone, Default)]
pub struct StatusBoard {
    sections: Arc<Mutex<BTreeMap<&'static str, Section>>>,
}

impl StatusBoard {
    /// Sets a section. It is asked at each look, must answer at once from memory, bound its own length, and name no
    /// secret.
    pub fn section(&self, name: &'static str, show: impl Fn() -> Value + Send + Sync + 'static) {
        self.sections().insert(name, Arc::new(show));
    }

    /// The whole board, as the admin port takes it.
    pub fn status(&self) -> Status {
        let board = self.clone();
        Arc::new(move || {
            // Asked outside the lock, so that a slow section holds up nobody who sets one.
            let sections = board.sections().clone();
            sections.into_iter().map(|(name, show)| (name.to_owned(), show())).collect()
        })
    }

    fn sections(&self) -> MutexGuard<'_, BTreeMap<&'static str, Section>> {
        self.sections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for StatusBoard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.sections().keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_section_is_asked_when_somebody_looks() {
        use std::sync::atomic::{AtomicU64, Ordering};
        let (board, count) = (StatusBoard::default(), Arc::new(AtomicU64::new(1)));
        let status = board.status();
        board.section("tunnels", {
            let count = count.clone();
            move || json!({ "open": count.load(Ordering::Relaxed) })
        });
        assert_eq!(status(), json!({ "tunnels": { "open": 1 } }));
        count.store(2, Ordering::Relaxed);
        assert_eq!(status(), json!({ "tunnels": { "open": 2 } }));
    }
}
