//! What happened lately, for people and programs that watch: a bounded history, and followers of `/events`.
//!
//! An event is a fact about the process's peers or its configuration that an operator may want to act on; what is only of
//! interest afterwards belongs into the log. Emitting never waits and never fails: a full history forgets, and a follower
//! reads from the history, so the slowest one costs no more than the fastest. One that falls behind the history is told
//! so and dropped.
//!
//! What is forgotten is the oldest of that kind about that `entity` of which there is most: whoever connects again and again
//! washes out its own events and nobody else's. Texts may come from peers; they are cleaned and cut before anybody sees them.
mod follow;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
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
    /// By id.
    kept: VecDeque<Arc<Event>>,
    next: u64,
    /// Everything from here on is kept.
    whole_from: u64,
    /// Of those that are kept, so no larger than they are.
    counts: HashMap<Key, Count>,
}

/// Kind, and the `entity` that an event is about, if it names one.
type Key = (&'static str, String);

/// How many there are of one key.
#[derive(Debug, Default)]
struct Count {
    kept: usize,
    forgotten: u64,
}

impl History {
    fn starting_at(next: u64) -> Self {
        Self { kept: VecDeque::new(), next, whole_from: next, counts: HashMap::new() }
    }

    fn push(&mut self, kind: &'static str, mut fields: Map<String, Value>) -> u64 {
        let key = key(kind, &fields);
        self.counts.entry(key.clone()).or_default().kept += 1;
        if self.kept.len() == HISTORY {
            self.forget();
        }
        let forgotten = self.counts.get(&key).map_or(0, |count| count.forgotten);
        if forgotten > 0 {
            fields.insert("forgotten".to_owned(), forgotten.into());
        }
        let id = self.next;
        self.next += 1;
        self.kept.push_back(Arc::new(Event { id, time: SystemTime::now(), kind, fields }));
        id
    }

    /// Forgets the oldest of those of which there is most, the one that is just being pushed included.
    fn forget(&mut self) {
        let most = self.counts.values().map(|count| count.kept).max().unwrap_or_default();
        let is_most = |event: &Arc<Event>| {
            // Where there is one of each, the oldest of all goes; the new one may be one of them.
            most == 1 || self.counts.get(&key(event.kind, &event.fields)).is_some_and(|count| count.kept == most)
        };
        let oldest = self.kept.iter().position(is_most);
        let Some(event) = self.kept.remove(oldest.unwrap_or_default()) else { return };
        let key = key(event.kind, &event.fields);
        if let Some(count) = self.counts.get_mut(&key) {
            (count.kept, count.forgotten) = (count.kept - 1, count.forgotten + 1);
            if count.kept == 0 {
                self.counts.remove(&key);
            }
        }
        self.whole_from = self.whole_from.max(event.id + 1);
    }
}

fn key(kind: &'static str, fields: &Map<String, Value>) -> Key {
    (kind, fields.get("entity").and_then(Value::as_str).unwrap_or_default().to_owned())
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
            history: Arc::new(Mutex::new(History::starting_at(next))),
            newest: watch::Sender::new(next),
            places: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
        }
    }

    /// Tells that something happened. `time`, `kind` and `forgotten` are no names for fields; the last is how many of this
    /// kind about this `entity` happened before and are not kept any more.
    pub fn emit<'a>(&self, kind: &'static str, fields: impl IntoIterator<Item = (&'a str, Value)>) {
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), cleaned(value))).collect();
        let mut history = self.history();
        let id = history.push(kind, fields);
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
