//! What `/readyz` waits for: named guards, released one by one while a process starts, and checks that are asked anew
//! each time. Never a peer, in the relay and the gateway (SD-15).
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tracing::info;

/// What must be done before this process can do its part. Ready when every guard was released, every check passes and
/// it is not draining. Cheap to clone; guards are taken at start, a handful per component.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    items: Arc<Mutex<Vec<Item>>>,
    ones: Arc<Mutex<Vec<Ones>>>,
}

/// One named thing that readiness waits for; `ready()` releases it, dropping it unreleased keeps the process unready.
#[derive(Debug)]
#[must_use = "dropping a guard without `ready()` keeps the process unready for good"]
pub struct Guard {
    readiness: Readiness,
    index: usize,
}

/// How one item stands now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    /// Its name.
    pub(super) name: &'static str,
    /// Why it is not ready; `None` when it is.
    pub(super) waiting: Option<Waiting>,
    /// How long it took to become ready; unknown for checks.
    pub(super) took: Option<Duration>,
}

/// What an item says about itself while it is not ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Waiting {
    /// In our own words.
    Guard(String),
    /// As the check says, which may quote a peer.
    Check(String),
}

struct Item {
    name: &'static str,
    since: Instant,
    state: State,
}

/// Things of one kind that can be asked for by name.
struct Ones {
    kind: &'static str,
    ask: Ask,
}

type Ask = Arc<dyn Fn(&str) -> Option<Result<(), String>> + Send + Sync>;

enum State {
    Waiting,
    Released(Duration),
    Abandoned,
    Check(Box<dyn Fn() -> Result<(), String> + Send + Sync>),
}

impl Readiness {
    /// Adds a named guard.
    pub fn guard(&self, name: &'static str) -> Guard {
        let mut items = self.items();
        items.push(Item { name, since: Instant::now(), state: State::Waiting });
        Guard { readiness: self.clone(), index: items.len() - 1 }
    }

    /// Adds a check that is asked at each probe, for what can be lost again; the error says what is missing, and is shown
    /// on loopback alone. It must answer at once, from memory.
    pub fn check(&self, name: &'static str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.items().push(Item { name, since: Instant::now(), state: State::Check(Box::new(check)) });
    }

    /// Lets `/readyz?<kind>=<name>` ask about one of several things that the process as a whole need not wait for; `None`
    /// says that there is none of that name. It must answer at once, from memory.
    pub fn one_of(&self, kind: &'static str, ask: impl Fn(&str) -> Option<Result<(), String>> + Send + Sync + 'static) {
        self.ones.lock().unwrap_or_else(PoisonError::into_inner).push(Ones { kind, ask: Arc::new(ask) });
    }

    /// What is known about the one of this kind and name; `None` when the kind or the name is not known.
    pub(super) fn ask(&self, kind: &str, name: &str) -> Option<Result<(), String>> {
        let ones = self.ones.lock().unwrap_or_else(PoisonError::into_inner);
        let ask = ones.iter().find(|ones| ones.kind == kind).map(|ones| ones.ask.clone());
        drop(ones);
        ask?(name)
    }

    /// Whether every guard was released and every check passes.
    pub fn is_ready(&self) -> bool {
        self.standing().iter().all(|item| item.waiting.is_none())
    }

    pub(super) fn standing(&self) -> Vec<Standing> {
        self.items().iter().map(Item::standing).collect()
    }

    fn settle(&self, index: usize, settle: impl FnOnce(&mut Item)) {
        if let Some(item) = self.items().get_mut(index) {
            settle(item);
        }
    }

    fn items(&self) -> MutexGuard<'_, Vec<Item>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guard {
    /// Releases the guard.
    pub fn ready(self) {
        self.readiness.settle(self.index, |item| {
            let took = item.since.elapsed();
            info!(guard = item.name, took_ms = took.as_millis(), "ready");
            item.state = State::Released(took);
        });
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.readiness.settle(self.index, |item| {
            if matches!(item.state, State::Waiting) {
                item.state = State::Abandoned;
            }
        });
    }
}

impl Item {
    fn standing(&self) -> Standing {
        let (waiting, took) = match &self.state {
            State::Waiting => (Some(Waiting::Guard(format!("waiting for {} s", self.since.elapsed().as_secs()))), None),
            State::Released(took) => (None, Some(*took)),
            State::Abandoned => (Some(Waiting::Guard("ended before it was ready".to_owned())), None),
            State::Check(check) => (check().err().map(Waiting::Check), None),
        };
        Standing { name: self.name, waiting, took }
    }
}

impl fmt::Debug for Ones {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.standing().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_every_guard_was_released() {
        let readiness = Readiness::default();
        assert!(readiness.is_ready());
        let (config, ports) = (readiness.guard("config"), readiness.guard("ports"));
        config.ready();
        assert!(!readiness.is_ready());
        ports.ready();
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_guard_dropped_unreleased_keeps_the_process_unready() {
        let readiness = Readiness::default();
        drop(readiness.guard("policy"));
        assert!(!readiness.is_ready());
        let ended = Waiting::Guard("ended before it was ready".to_owned());
        assert_eq!(readiness.standing()[0].waiting, Some(ended));
    }

    #[test]
    fn a_check_is_asked_anew_each_time() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let (readiness, up) = (Readiness::default(), Arc::new(AtomicBool::new(false)));
        readiness.check("cluster", {
            let up = up.clone();
            move || if up.load(Ordering::Relaxed) { Ok(()) } else { Err("no cluster is reachable".to_owned()) }
        });
        assert!(!readiness.is_ready());
        up.store(true, Ordering::Relaxed);
        assert!(readiness.is_ready());
    }
}
