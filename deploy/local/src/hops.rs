//! What the components wrote to their logs, kept so that it can be shown hop by hop. The same lines go to a file as JSON.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use tokio::sync::Notify;
use tracing::{Event, Level, Subscriber, field::Visit};
use tracing_subscriber::{
    Layer, filter,
    layer::{Context, SubscriberExt},
    util::SubscriberInitExt,
};

/// Lines kept: a demonstration writes some dozens.
const KEPT_MAX: usize = 4096;

/// One log line of a component.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// Position in the order of writing.
    pub(crate) number: u64,
    /// Module that wrote it (`gateway::serve::session`).
    pub(crate) module: String,
    /// Its target (`access` for the line that ends a stream).
    pub(crate) target: String,
    /// Message and fields as text.
    pub(crate) fields: BTreeMap<String, String>,
}

impl Line {
    /// A field's text, or nothing.
    pub(crate) fn get(&self, field: &str) -> &str {
        self.fields.get(field).map_or("", String::as_str)
    }
}

/// The kept lines. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Hops {
    kept: Arc<Mutex<Kept>>,
    arrived: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<Line>,
    next: u64,
}

/// Starts logging for the whole process: JSON into `file`, and kept lines for showing.
pub(crate) fn start(file: &Path) -> anyhow::Result<Hops> {
    let log = File::options()
        .create_new(true)
        .append(true)
        .open(file)
        .with_context(|| format!("creating the log file {}", file.display()))?;
    let hops = Hops { kept: Arc::default(), arrived: Arc::default() };
    let ours = filter::filter_fn(|metadata| *metadata.level() <= Level::INFO);
    tracing_subscriber::registry()
        .with(
            tracing_subscriber::fmt::layer().json().with_writer(Mutex::new(log)).with_filter(filter::LevelFilter::INFO),
        )
        .with(Keep { hops: hops.clone() }.with_filter(ours))
        .try_init()
        .context("starting the log")?;
    Ok(hops)
}

impl Hops {
    /// The position after the last line so far.
    pub(crate) fn mark(&self) -> u64 {
        self.kept().next
    }

    /// The first line at or after `mark` for which `wanted` holds, waiting for it up to `patience`.
    pub(crate) async fn wait(&self, mark: u64, patience: Duration, wanted: impl Fn(&Line) -> bool) -> Option<Line> {
        let found = async {
            loop {
                let arrived = self.arrived.notified();
                let found = self.kept().lines.iter().find(|line| line.number >= mark && wanted(line)).cloned();
                match found {
                    Some(line) => return line,
                    None => arrived.await,
                }
            }
        };
        tokio::time::timeout(patience, found).await.ok()
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let mut kept = self.kept();
        let line = Line {
            number: kept.next,
            module: metadata.module_path().unwrap_or_default().to_owned(),
            target: metadata.target().to_owned(),
            fields: fields.0,
        };
        kept.next += 1;
        kept.lines.push_back(line);
        if kept.lines.len() > KEPT_MAX {
            kept.lines.pop_front();
        }
        drop(kept);
        self.arrived.notify_waiters();
    }
}

struct Keep {
    hops: Hops,
}

impl<S: Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.hops.keep(event);
    }
}

#[derive(Default)]
struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}
