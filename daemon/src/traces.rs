//! Traces: one span for each stream, in the trace that its caller began or in one of its own, handed to whoever exports
//! them. A span is made in one piece at its end, from what the access line says, too; it holds no query, no header value
//! and no token, because nobody puts one in.
//!
//! Handing over never waits: when the queue is full, the span is dropped and counted.
mod context;
mod otlp;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::mpsc;

pub use self::{context::Parent, otlp::encode};
use crate::{config::Validate, metrics::Metrics};

/// Spans that wait for the exporter: some seconds of a busy gateway, a few MiB.
const QUEUE_MAX: usize = 4096;

/// Longest text of a span, in bytes; callers choose paths of many KiB, and all that wait are held.
const TEXT_MAX: usize = 256;

/// The `traces:` section: where spans go.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where a collector takes OTLP over HTTP, such as `http://collector:4318`; `/v1/traces` is added. Spans hold the names
    /// and paths that access lines hold, so plain http is for networks where those may be read.
    pub otlp: String,
    /// PEM file with CAs that are trusted beside the system's.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Share of the traces that begin here which is recorded, 0 to 1; default 1. Callers decide about their own.
    #[serde(default = "all")]
    pub sample: f64,
}

fn all() -> f64 {
    1.0
}

impl Validate for Config {
    fn validate(&self) -> Result<(), (String, String)> {
        let authority = self.otlp.strip_prefix("http://").or_else(|| self.otlp.strip_prefix("https://"));
        let plain = |text: &str| !text.is_empty() && !text.starts_with('/') && !text.contains(['?', '#', '@', ' ']);
        if !authority.is_some_and(plain) {
            let text = "write http://<host>[:<port>] or https://<host>[:<port>], without user, query or fragment";
            return Err(("otlp".to_owned(), text.to_owned()));
        }
        if !(0.0..=1.0).contains(&self.sample) {
            return Err(("sample".to_owned(), format!("{} is not from 0 to 1", self.sample)));
        }
        Ok(())
    }
}

/// Makes spans; one that is not configured makes none. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    queue: mpsc::Sender<Span>,
    dropped: Counter,
    sample: f64,
}

/// What the exporter takes spans from, and counts with.
#[derive(Debug)]
pub struct Queue {
    spans: mpsc::Receiver<Span>,
    /// Spans that a collector took.
    pub exported: Counter,
    /// Spans that no collector took.
    pub lost: Counter,
}

/// A finished span.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    trace: [u8; 16],
    id: [u8; 8],
    parent: Option<[u8; 8]>,
    state: String,
    name: String,
    began: SystemTime,
    ended: SystemTime,
    attributes: Vec<(&'static str, Value)>,
    error: Option<String>,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

impl Value {
    fn clipped(self) -> Self {
        match self {
            Self::Text(text) => Self::Text(clipped(text)),
            Self::Number(number) => Self::Number(number),
        }
    }
}

/// At most [`TEXT_MAX`] of a text; the rest of it is let go.
fn clipped(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        text.truncate(text.floor_char_boundary(TEXT_MAX));
        text.shrink_to_fit();
    }
    text
}

/// What a span says at its end.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// Its name: what was done, not to whom.
    pub name: String,
    /// Attributes.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it failed, if it did: a code.
    pub error: Option<&'static str>,
}

/// A span that has begun.
#[derive(Debug)]
pub struct Begun {
    tracer: Arc<Inner>,
    trace: [u8; 16],
    id: [u8; 8],
    parent: Option<[u8; 8]>,
    state: String,
    sampled: bool,
    began: SystemTime,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    reason: &'static str,
}

/// A tracer and its queue. `metrics` counts what becomes of spans.
pub fn tracer(config: &Config, metrics: &Metrics) -> (Tracer, Queue) {
    let (queue, spans) = mpsc::channel(QUEUE_MAX);
    let (exported, dropped) = (Counter::default(), Family::<Why, Counter>::default());
    metrics.register(|registry| {
        registry.register("spans_exported", "Spans that the collector took", exported.clone());
        registry.register(
            "spans_dropped",
            "Spans that were dropped, because too many waited or because the collector did not take them",
            dropped.clone(),
        );
    });
    let full = dropped.get_or_create(&Why { reason: "queue_full" }).clone();
    let lost = dropped.get_or_create(&Why { reason: "collector" }).clone();
    let tracer = Tracer(Some(Arc::new(Inner { queue, dropped: full, sample: config.sample })));
    (tracer, Queue { spans, exported, lost })
}

impl Tracer {
    /// Begins a span below its caller's, or a trace of its own. Nothing without a configuration.
    pub fn begin(&self, parent: Option<&Parent>, now: SystemTime) -> Option<Begun> {
        let tracer = Arc::clone(self.0.as_ref()?);
        let id = random();
        Some(match parent {
            Some(parent) => Begun {
                trace: parent.trace,
                id,
                parent: Some(parent.span),
                state: parent.state.clone(),
                sampled: parent.sampled,
                began: now,
                tracer,
            },
            None => {
                let sampled = tracer.sample >= 1.0 || (random_share() < tracer.sample);
                Begun { trace: random(), id, parent: None, state: String::new(), sampled, began: now, tracer }
            }
        })
    }
}

impl Begun {
    /// `traceparent` for whoever is called next.
    pub fn traceparent(&self) -> String {
        context::write(&self.trace, &self.id, self.sampled)
    }

    /// Whether anybody will see it; without that nothing needs to be told.
    pub fn is_recorded(&self) -> bool {
        self.sampled
    }

    /// Hands it over.
    pub fn end(self, lasted: Duration, told: Told) {
        if !self.sampled {
            return;
        }
        let span = Span {
            trace: self.trace,
            id: self.id,
            parent: self.parent,
            state: self.state,
            name: clipped(told.name),
            began: self.began,
            ended: self.began + lasted,
            attributes: told.attributes.into_iter().map(|(key, value)| (key, value.clipped())).collect(),
            error: told.error.map(str::to_owned),
        };
        if self.tracer.queue.try_send(span).is_err() {
            self.tracer.dropped.inc();
        }
    }
}

impl Queue {
    /// Waits for spans, and takes up to `most` of them. Cancel-safe. None come once there is no tracer any more.
    pub async fn take(&mut self, into: &mut Vec<Span>, most: usize) -> usize {
        self.spans.recv_many(into, most.saturating_sub(into.len())).await
    }

    /// Takes what is there now.
    pub fn take_now(&mut self, into: &mut Vec<Span>, most: usize) {
        while into.len() < most {
            match self.spans.try_recv() {
                Ok(span) => into.push(span),
                Err(_) => return,
            }
        }
    }
}

/// Random bytes, not all zero: such ids are invalid.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Without randomness spans could not be told apart; all of them are lost then, and nothing else.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    if bytes == [0; N] {
        bytes[N - 1] = 1;
    }
    bytes
}

/// From 0 (included) to 1 (excluded).
fn random_share() -> f64 {
    f64::from(u32::from_be_bytes(random())) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<Config, String> {
        let config: Config = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        config.validate().map_err(|(key, message)| format!("{key}: {message}"))?;
        Ok(config)
    }

    fn setup(sample: f64) -> (Tracer, Queue, Metrics) {
        let metrics = Metrics::new("test");
        let (tracer, queue) = tracer(&Config { otlp: "http://c:4318".to_owned(), ca: None, sample }, &metrics);
        (tracer, queue, metrics)
    }

    #[test]
    fn a_text_is_clipped_where_a_character_ends() {
        assert_eq!(clipped("x".repeat(TEXT_MAX)).len(), TEXT_MAX);
        assert_eq!(clipped(format!("{}\u{e9}", "x".repeat(TEXT_MAX - 1))), "x".repeat(TEXT_MAX - 1));
        let long = Value::Text("y".repeat(64 * 1024)).clipped();
        let Value::Text(text) = long else { panic!("a text") };
        assert!(text.len() == TEXT_MAX && text.capacity() < 2 * TEXT_MAX, "what is cut off is let go");
    }

    #[test]
    fn a_collector_is_an_http_address_and_nothing_more() {
        assert_eq!(config("{ otlp: \"http://collector:4318\" }").unwrap().sample, 1.0);
        for (bad, key) in [
            ("{ otlp: collector:4318 }", "otlp"),
            ("{ otlp: \"http://\" }", "otlp"),
            ("{ otlp: \"http://me@collector\" }", "otlp"),
            ("{ otlp: \"http://collector?key=1\" }", "otlp"),
            ("{ otlp: \"http://c\", sample: 1.5 }", "sample"),
            ("{ otlp: \"http://c\", sample: .nan }", "sample"),
        ] {
            assert!(config(bad).unwrap_err().starts_with(key), "{bad}");
        }
    }

    #[test]
    fn a_span_stands_below_its_callers_or_begins_a_trace() {
        let (tracer, mut queue, _) = setup(1.0);
        let parent = Parent::read("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "a=1").unwrap();
        let begun = tracer.begin(Some(&parent), SystemTime::UNIX_EPOCH).unwrap();
        let ours = Parent::read(&begun.traceparent(), "").unwrap();
        assert_eq!(ours.trace, parent.trace);
        assert_ne!(ours.span, parent.span);
        begun.end(Duration::from_secs(1), Told { name: "GET".to_owned(), ..Told::default() });
        tracer.begin(None, SystemTime::UNIX_EPOCH).unwrap().end(Duration::ZERO, Told::default());
        let mut spans = Vec::new();
        queue.take_now(&mut spans, 10);
        assert_eq!((spans[0].trace, spans[0].parent, spans[0].id), (parent.trace, Some(parent.span), ours.span));
        assert_eq!(spans[0].state, "a=1");
        assert_eq!(spans[1].parent, None);
    }

    #[test]
    fn what_nobody_wants_recorded_is_passed_on_and_not_exported() {
        let (tracer, mut queue, _) = setup(0.0);
        let parent = Parent::read("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", "").unwrap();
        for parent in [Some(&parent), None] {
            let begun = tracer.begin(parent, SystemTime::UNIX_EPOCH).unwrap();
            assert!(begun.traceparent().ends_with("-00") && !begun.is_recorded());
            begun.end(Duration::ZERO, Told::default());
        }
        let mut spans = Vec::new();
        queue.take_now(&mut spans, 10);
        assert!(spans.is_empty());
        assert!(Tracer::default().begin(None, SystemTime::UNIX_EPOCH).is_none());
    }

    #[test]
    fn a_full_queue_drops_and_counts_and_never_waits() {
        let (tracer, mut queue, metrics) = setup(1.0);
        for _ in 0..QUEUE_MAX + 3 {
            tracer.begin(None, SystemTime::UNIX_EPOCH).unwrap().end(Duration::ZERO, Told::default());
        }
        assert!(metrics.encode().contains("test_spans_dropped_total{reason=\"queue_full\"} 3\n"));
        let mut spans = Vec::new();
        queue.take_now(&mut spans, usize::MAX);
        assert_eq!(spans.len(), QUEUE_MAX);
    }
}
