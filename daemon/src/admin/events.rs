//! What happened lately, for people and programs that watch: a bounded history, and followers of `/events`.
//!
//! An event is a fact about the process's peers or its configuration that an operator may want to act on; what is only of
//! interest afterwards belongs into the log. Emitting never waits and never fails: the history forgets its oldest, and a
//! follower reads from the history, so the slowest one costs no more than the fastest. One that falls behind the history
//! is told so and dropped. Texts may come from peers; they are cleaned and cut before anybody sees them.
mod follow;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value};
use tokio::sync::{Semaphore, watch};

pub(super) use follow::{Follower, Patience};

use crate::clock::timestamp;

/// Events that are kept. At some 300 bytes each they are a few hundred KiB, and even a bad hour of reconnects fits.
pub const HISTORY: usize = 1000;

/// Longest text in an event, in characters: ids, names and reasons fit; what a peer sends beyond is noise.
pub const TEXT_MAX: usize = 256;

/// Followers at a time. Each holds a connection of the admin port for as long as it likes, and probes need the rest.
pub const FOLLOWERS_MAX: usize = 8;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Grows by one with each event, and from one process to the next.
    pub id: u64,
    /// When.
    pub time: SystemTime,
    /// What: a stable name.
    pub kind: &'static str,
    /// More about it.
    pub fields: Map<String, Value>,
}

/// Where events are told. Cheap to clone; all clones are one history.
#[derive(Clone)]
pub struct Events {
    history: Arc<Mutex<History>>,
    newest: watch::Sender<u64>,
    places: Arc<Semaphore>,
}

#[derive(Debug)]
struct History {
    kept: VecDeque<Arc<Event>>,
    next: u64,
}

impl Events {
    /// An empty history.
    pub fn new() -> Self {
        Self::since(SystemTime::now())
    }

    /// Ids begin with the time, so that a follower that comes back after a restart is not taken for one that has seen
    /// everything.
    fn since(start: SystemTime) -> Self {
        let since = start.duration_since(UNIX_EPOCH).unwrap_or_default();
        // Exact in JavaScript's numbers until the year 2255.
        let next = u64::try_from(since.as_millis()).unwrap_or_default() * 1000;
        Self {
            history: Arc::new(Mutex::new(History { kept: VecDeque::new(), next })),
            newest: watch::Sender::new(next),
            places: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
        }
    }

    /// Tells that something happened. `time` and `kind` are no names for fields.
    pub fn emit<'a>(&self, kind: &'static str, fields: impl IntoIterator<Item = (&'a str, Value)>) {
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), cleaned(value))).collect();
        let time = SystemTime::now();
        let mut history = self.history();
        let id = history.next;
        history.next += 1;
        if history.kept.len() == HISTORY {
            history.kept.pop_front();
        }
        history.kept.push_back(Arc::new(Event { id, time, kind, fields }));
        // Under the lock, so that the newest is never older than what was told before.
        self.newest.send_replace(id);
    }

    /// What is kept, oldest first.
    pub fn recent(&self) -> Vec<Arc<Event>> {
        self.history().kept.iter().cloned().collect()
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("kept", &self.history().kept.len()).finish_non_exhaustive()
    }
}

impl Event {
    /// As a follower reads it.
    fn json(&self) -> String {
        let mut object = self.fields.clone();
        object.insert("time".to_owned(), timestamp(self.time).into());
        object.insert("kind".to_owned(), self.kind.into());
        Value::from(object).to_string()
    }
}

/// Texts without control characters, in ASCII (a terminal may be reading), and of bounded length.
fn cleaned(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(
            text.chars()
                .filter(|character| !character.is_control())
                .map(|character| if character.is_ascii() { character } else { '?' })
                .take(TEXT_MAX)
                .collect(),
        ),
        Value::Array(values) => values.into_iter().map(cleaned).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, cleaned(value))).collect(),
        other => other,
    }
}
