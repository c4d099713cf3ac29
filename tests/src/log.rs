//! The log of one process: JSON lines, waited for by what they say.
use std::{
    fmt,
    sync::{Arc, Mutex},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    sync::watch,
};

use crate::wait::named;

/// The log of one process. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    entries: Arc<Mutex<Vec<Entry>>>,
    grown: Arc<watch::Sender<usize>>,
}

impl Default for Log {
    fn default() -> Self {
        Self { entries: Arc::default(), grown: Arc::new(watch::Sender::new(0)) }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("lines", &*self.grown.borrow()).finish_non_exhaustive()
    }
}

impl Log {
    pub(crate) async fn read(self, from: impl AsyncRead + Unpin) {
        let mut lines = BufReader::new(from).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let mut entries = self.entries.lock().expect("nothing panics while it holds the log");
            entries.push(Entry::parse(line));
            self.grown.send_replace(entries.len());
        }
    }

    /// Lines as they came.
    pub fn lines(&self) -> Vec<String> {
        self.entries().into_iter().map(|entry| entry.line).collect()
    }

    /// All entries so far.
    ///
    /// # Panics
    /// Never; the lock is held only to copy.
    pub fn entries(&self) -> Vec<Entry> {
        self.entries.lock().expect("nothing panics while it holds the log").clone()
    }

    /// How many lines there are: a mark for [`Log::since`].
    pub fn mark(&self) -> usize {
        *self.grown.borrow()
    }

    /// Entries after a mark.
    pub fn since(&self, mark: usize) -> Vec<Entry> {
        self.entries().split_off(mark)
    }

    /// Waits until `find` finds what it wants among all entries.
    pub async fn wait<T>(&self, find: impl Fn(&[Entry]) -> Option<T>) -> T {
        let mut grown = self.grown.subscribe();
        loop {
            grown.mark_unchanged();
            if let Some(found) = find(&self.entries()) {
                return found;
            }
            // The sender lives as long as this log.
            grown.changed().await.expect("the log outlives whoever waits on it");
        }
    }

    /// The one access line of this stream.
    ///
    /// # Panics
    /// When there is a second one.
    pub async fn access(&self, stream: &str) -> Entry {
        let entry = self.entry(format_args!("access line of {stream}"), 0, |entry| entry.is_access(stream)).await;
        let lines = self.entries().iter().filter(|entry| entry.is_access(stream)).count();
        assert_eq!(lines, 1, "one access line for each stream");
        entry
    }

    /// Waits for an entry after `mark` that `matches`.
    pub async fn entry(&self, what: impl fmt::Display, mark: usize, matches: impl Fn(&Entry) -> bool) -> Entry {
        named(
            format_args!("log line: {what}"),
            self.wait(|entries| entries.iter().skip(mark).find(|entry| matches(entry)).cloned()),
        )
        .await
    }
}

/// One line of a log.
#[derive(Debug, Clone)]
pub struct Entry {
    /// As it was written.
    pub line: String,
    json: Value,
}

impl Entry {
    fn parse(line: String) -> Self {
        let json = serde_json::from_str(&line).unwrap_or(Value::Null);
        Self { line, json }
    }

    /// A field of the event.
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.json.get("fields")?.get(name)
    }

    /// A field of the event as text.
    pub fn field(&self, name: &str) -> Option<String> {
        Some(match self.value(name)? {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    }

    /// The message; empty on a line that is not JSON.
    pub fn message(&self) -> String {
        self.field("message").unwrap_or_default()
    }

    /// Whether this is the access line of this stream.
    pub fn is_access(&self, stream: &str) -> bool {
        self.json.get("target").and_then(Value::as_str) == Some("access")
            && self.field("stream").as_deref() == Some(stream)
    }

    /// The stream of an access line for this kind (`http`, `tcp`).
    pub fn stream(&self, kind: &str) -> Option<String> {
        (self.field("kind").as_deref() == Some(kind)).then(|| self.field("stream")).flatten()
    }

    /// Whether the line holds this text anywhere.
    pub fn contains(&self, text: &str) -> bool {
        self.line.contains(text)
    }
}
