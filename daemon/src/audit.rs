//! The audit stream (SD-17): who was let do what, and every change of who may, in a file of its own whose lines are
//! chained, so that a line that was removed, added or changed afterwards shows.
//!
//! A line is one JSON object with `time`, `instance` (one process's random name), `seq` (counts from 1 in an instance),
//! `previous` (SHA-256 of the line before, 64 zeros for the first of a file) and `kind`; the rest is about the event.
//! What the chain cannot show is a tail that was cut off: whoever needs that ships the file away, or keeps the last hash.
//!
//! Writing happens in one task. [`Journal::tell`] never waits; where it falls behind, a line of kind `lost` says how many
//! are missing. [`Journal::confirm`] waits until the line is written, where the owner said `required`, and its caller
//! does nothing without. After an error the file is opened again for the next line, as it is when it was moved away.
mod file;
#[cfg(test)]
mod tests;
mod verify;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use prometheus_client::metrics::counter::Counter;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};

pub use file::OpenError;
pub use verify::{Broken, Verified, verify};

use self::file::File;
use crate::{clock::timestamp, process::Context};

/// Lines that wait for the disk. At some 500 bytes each they are 2 MiB, seconds of a busy gateway's grants.
pub const WAITING_MAX: usize = 4096;

/// Lines written at once.
const BATCH_MAX: usize = 256;

/// Longest text in a line, in characters; peers choose some of them.
pub const TEXT_MAX: usize = 1024;

/// Where the audit stream goes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditConfig {
    /// File that lines are appended to, relative to the configuration file; made with mode 0600. When it is moved away,
    /// a new one is begun within one line.
    pub file: PathBuf,
    /// Refuse new work while the file cannot be written. Default `false`: the log says so, and work goes on.
    #[serde(default)]
    pub required: bool,
}

/// The audit file could not be written, and the owner said that nothing happens without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the audit line cannot be written, and `audit.required` says that nothing is done without")]
pub struct Unwritten;

/// Takes events to the audit file. Cheap to clone; all clones write one chain.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    queue: Option<Queue>,
}

#[derive(Debug, Clone)]
struct Queue {
    entries: mpsc::Sender<Entry>,
    lost: Arc<AtomicU64>,
    required: bool,
}

#[derive(Debug)]
struct Entry {
    kind: &'static str,
    fields: Map<String, Value>,
    written: Option<oneshot::Sender<()>>,
}

impl Journal {
    /// Opens the file below `base` and writes to it in a task of `context.shutdown`, which ends when the last clone of
    /// the journal is dropped. Without a configuration nothing is written and nothing fails.
    ///
    /// # Errors
    /// When the file cannot be opened or continued, or another process writes it.
    pub fn start(config: Option<&AuditConfig>, base: &Path, context: &Context) -> Result<Self, OpenError> {
        let Some(config) = config else { return Ok(Self::default()) };
        let file = File::open(base.join(&config.file))?;
        let (entries, waiting) = mpsc::channel(WAITING_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let counters = Counters::register(context);
        let writer = Writer { file, waiting, lost: Arc::clone(&lost), counters, clock: Arc::clone(&context.clock) };
        context.shutdown.spawn(writer.run());
        Ok(Self { queue: Some(Queue { entries, lost, required: config.required }) })
    }

    /// Whether anything told is written down: whoever has to gather what to tell may spare it otherwise.
    pub fn is_kept(&self) -> bool {
        self.queue.is_some()
    }

    /// Tells of something that has happened.
    pub fn tell(&self, kind: &'static str, fields: Map<String, Value>) {
        let Some(queue) = &self.queue else { return };
        if queue.entries.try_send(Entry { kind, fields, written: None }).is_err() {
            queue.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells of something that is about to happen; where the owner said `required`, waits until that is written.
    ///
    /// # Errors
    /// When it is required and cannot be written: do not go on.
    pub async fn confirm(&self, kind: &'static str, fields: Map<String, Value>) -> Result<(), Unwritten> {
        let Some(queue) = self.queue.as_ref().filter(|queue| queue.required) else {
            self.tell(kind, fields);
            return Ok(());
        };
        let (written, confirmed) = oneshot::channel();
        // A disk that does not keep up slows new work down, which is what was asked for.
        queue.entries.send(Entry { kind, fields, written: Some(written) }).await.map_err(|_| Unwritten)?;
        confirmed.await.map_err(|_| Unwritten)
    }
}

#[derive(Debug)]
struct Counters {
    lines: Counter,
    failures: Counter,
}

impl Counters {
    fn register(context: &Context) -> Self {
        let counters = Self { lines: Counter::default(), failures: Counter::default() };
        context.metrics.register(|registry| {
            registry.register("audit_lines", "Audit lines written", counters.lines.clone());
            registry.register("audit_lines_lost", "Audit lines that could not be written", counters.failures.clone());
        });
        counters
    }
}

struct Writer {
    file: File,
    waiting: mpsc::Receiver<Entry>,
    lost: Arc<AtomicU64>,
    counters: Counters,
    clock: crate::clock::SharedClock,
}

impl Writer {
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while self.waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
            // A disk may stall for as long as it likes; no tunnel waits for it but through `confirm`.
            let entries = std::mem::take(&mut batch);
            let working = tokio::task::spawn_blocking(move || {
                self.write(entries);
                self
            });
            match working.await {
                Ok(writer) => self = writer,
                Err(error) => return tracing::error!(%error, "nothing is audited any more"),
            }
        }
    }

    fn write(&mut self, entries: Vec<Entry>) {
        let time = timestamp(self.clock.now());
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let mut lines = Vec::with_capacity(entries.len() + 1);
        if lost > 0 {
            lines.push(("lost", Map::from_iter([("lines".to_owned(), lost.into())])));
        }
        let (events, waiting): (Vec<_>, Vec<_>) =
            entries.into_iter().map(|entry| ((entry.kind, entry.fields), entry.written)).unzip();
        let count = events.len() as u64;
        lines.extend(events);
        match self.file.append(&time, lines) {
            Ok(()) => {
                self.counters.lines.inc_by(count);
                self.counters.failures.inc_by(lost);
                for written in waiting.into_iter().flatten() {
                    // Whoever waited may have gone.
                    let _ = written.send(());
                }
            }
            Err(error) => {
                self.lost.fetch_add(lost + count, Ordering::Relaxed);
                tracing::error!(error = %crate::process::explain(&error), lines = count, "audit lines cannot be written");
            }
        }
    }
}

/// Fields of a line, from pairs; what is absent is left out, and texts are cut to [`TEXT_MAX`].
pub fn fields<const N: usize>(pairs: [(&str, Option<Value>); N]) -> Map<String, Value> {
    let cut = |value| match value {
        Value::String(text) if text.chars().count() > TEXT_MAX => {
            text.chars().take(TEXT_MAX).collect::<String>().into()
        }
        other => other,
    };
    pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), cut(value?)))).collect()
}
