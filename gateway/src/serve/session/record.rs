//! The access line: one per stream and one per tunnel, written at its end from a guard, so that a stream that is cut off
//! or panics leaves its line too. Paths are logged without query, header values never (SD-17).

use std::{
    fmt::Display,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http::StatusCode;
use identity::principal::Principal;
use proto::tunnel::failure::{Code, Failure};

use tracing::field::DisplayValue;

use daemon::traces::{Begun, Told, Value};

pub use crate::fault::Fault;
use crate::{
    blocked::Blocked,
    serve::{limits::Account, metrics::Metrics},
};

/// What a stream has moved. Shared with the request's body, which is on its way on its own.
#[derive(Debug)]
pub struct Traffic {
    begin: Instant,
    sent: AtomicU64,
    received: AtomicU64,
    status: AtomicU16,
    answered: OnceLock<Duration>,
    /// Waits for the target to take what there is for it.
    pub blocked_to_target: Blocked,
    /// Waits for the caller's credit.
    pub blocked_to_caller: Blocked,
    address: OnceLock<SocketAddr>,
    /// For whom its bytes are counted.
    accounts: OnceLock<Vec<Arc<Account>>>,
}

impl Traffic {
    fn new() -> Self {
        Self {
            begin: Instant::now(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            status: AtomicU16::new(0),
            answered: OnceLock::new(),
            blocked_to_target: Blocked::default(),
            blocked_to_caller: Blocked::default(),
            address: OnceLock::new(),
            accounts: OnceLock::new(),
        }
    }

    /// From now on its bytes count for these.
    pub fn count_for(&self, accounts: Vec<Arc<Account>>) {
        self.accounts.get_or_init(|| accounts);
    }

    /// For whom its bytes count.
    pub fn accounts(&self) -> &[Arc<Account>] {
        self.accounts.get().map_or(&[], Vec::as_slice)
    }

    fn moved(&self, bytes: usize) {
        for account in self.accounts() {
            account.moved(bytes);
        }
    }

    /// Bytes of payload that went to the target.
    pub fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.moved(bytes);
    }

    /// Bytes of payload that came from the target.
    pub fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        self.moved(bytes);
        self.answered();
    }

    /// The target's answer has begun.
    pub fn answered(&self) {
        self.answered.get_or_init(|| self.begin.elapsed());
    }

    /// The address that was called; the first one counts.
    pub fn called(&self, address: SocketAddr) {
        self.address.get_or_init(|| address);
    }

    /// The answer's status.
    pub fn status(&self, status: StatusCode) {
        self.status.store(status.as_u16(), Ordering::Relaxed);
    }
}

/// What the tunnel of a stream is, for its line.
#[derive(Debug)]
pub struct TunnelFacts {
    /// Our name for the tunnel.
    pub id: String,
    /// The listener's id for it, from the PROXY header.
    pub forwarded_id: Option<String>,
    /// Whom it is from.
    pub peer: SocketAddr,
    /// How it came in.
    pub way: &'static str,
}

/// The line of one stream, filled as the stream goes on and written when it is dropped.
#[derive(Debug)]
pub struct Record {
    tunnel: Arc<TunnelFacts>,
    metrics: Arc<Metrics>,
    /// Both ends' name for the stream.
    pub stream: String,
    /// Trace of the caller.
    pub trace: Option<String>,
    /// Its span, if traces are exported.
    pub span: Option<Begun>,
    /// `http`, `tcp`, `kubernetes`, `unix` or the method's name.
    pub kind: &'static str,
    /// Who holds the tunnel.
    pub actor: Option<Principal>,
    /// Whose request it is.
    pub subject: Option<Principal>,
    /// Host and port as asked for.
    pub target: Option<String>,
    /// HTTP method.
    pub method: Option<String>,
    /// Path without query.
    pub path: Option<String>,
    /// The rule that allowed it.
    pub rule: Option<Arc<str>>,
    /// The user that the API server was told, for requests to it.
    pub as_user: Option<String>,
    /// Bytes and times.
    pub traffic: Arc<Traffic>,
    outcome: Option<Result<(), Failure>>,
}

impl Record {
    /// A stream has been opened.
    pub fn open(tunnel: &Arc<TunnelFacts>, metrics: &Arc<Metrics>, kind: &'static str, stream: String) -> Self {
        metrics.streams_opened.inc();
        Self {
            tunnel: Arc::clone(tunnel),
            metrics: Arc::clone(metrics),
            stream,
            trace: None,
            span: None,
            kind,
            actor: None,
            subject: None,
            target: None,
            method: None,
            path: None,
            rule: None,
            as_user: None,
            traffic: Arc::new(Traffic::new()),
            outcome: None,
        }
    }

    /// What its tunnel is.
    pub fn tunnel(&self) -> &TunnelFacts {
        &self.tunnel
    }

    /// How it ended. Without this the line says that it was cut off.
    pub fn close(mut self, outcome: Result<(), Failure>) {
        self.outcome = Some(outcome);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let cut = Err(Failure::perhaps(Code::TunnelLost, "the stream was cut off with its tunnel"));
        let outcome = self.outcome.take().unwrap_or(cut);
        let failure = outcome.as_ref().err();
        let ended = failure.map_or("ok", |failure| failure.code.name());
        let fault = failure.map_or(Fault::Nobody, |failure| Fault::of(failure.code));
        let traffic = &self.traffic;
        self.metrics.stream_closed(ended, fault, traffic);
        let status = Some(traffic.status.load(Ordering::Relaxed)).filter(|status| *status != 0);
        tracing::info!(
            target: "access",
            stream = %self.stream,
            tunnel = %self.tunnel.id,
            peer = %self.tunnel.peer,
            forwarded_id = self.tunnel.forwarded_id,
            trace = self.trace,
            kind = self.kind,
            actor = text(self.actor.as_ref()),
            subject = text(self.subject.as_ref()),
            target_host = self.target,
            address = text(traffic.address.get()),
            method = self.method,
            path = self.path,
            status,
            rule = self.rule.as_deref(),
            as_user = self.as_user,
            bytes_to_target = traffic.sent.load(Ordering::Relaxed),
            bytes_from_target = traffic.received.load(Ordering::Relaxed),
            first_byte_ms = traffic.answered.get().map(milliseconds),
            blocked_to_target_ms = milliseconds(&traffic.blocked_to_target.total()),
            blocked_to_caller_ms = milliseconds(&traffic.blocked_to_caller.total()),
            total_ms = milliseconds(&traffic.begin.elapsed()),
            ended,
            fault = fault.name(),
            reached_target = failure.map(|failure| failure.reached.name()),
            reason = failure.map(|failure| failure.message.as_str()),
            "stream"
        );
        if let Some(span) = self.span.take() {
            let told = if span.is_recorded() { self.told(status, failure, fault) } else { Told::default() };
            span.end(self.traffic.begin.elapsed(), told);
        }
    }
}

impl Record {
    /// What its span says: what the line says, too.
    fn told(&self, status: Option<u16>, failure: Option<&Failure>, fault: Fault) -> Told {
        let texts = [
            ("causeway.stream", Some(self.stream.clone())),
            ("causeway.tunnel", Some(self.tunnel.id.clone())),
            ("causeway.kind", Some(self.kind.to_owned())),
            ("causeway.actor", self.actor.as_ref().map(ToString::to_string)),
            ("causeway.subject", self.subject.as_ref().map(ToString::to_string)),
            ("causeway.rule", self.rule.as_deref().map(ToOwned::to_owned)),
            ("causeway.ended", Some(failure.map_or("ok", |failure| failure.code.name()).to_owned())),
            ("causeway.fault", Some(fault.name().to_owned())),
            ("server.address", self.target.clone()),
            ("http.request.method", self.method.clone()),
            ("url.path", self.path.clone()),
        ];
        let numbers = [
            ("http.response.status_code", status.map(i64::from)),
            ("causeway.bytes_to_target", i64::try_from(self.traffic.sent.load(Ordering::Relaxed)).ok()),
            ("causeway.bytes_from_target", i64::try_from(self.traffic.received.load(Ordering::Relaxed)).ok()),
        ];
        let texts = texts.into_iter().filter_map(|(key, value)| Some((key, Value::Text(value?))));
        let numbers = numbers.into_iter().filter_map(|(key, value)| Some((key, Value::Number(value?))));
        let name = self.method.clone().unwrap_or_else(|| self.kind.to_owned());
        Told { name, attributes: texts.chain(numbers).collect(), error: failure.map(|failure| failure.code.name()) }
    }
}

impl Traffic {
    /// What has moved towards the target, and from it.
    pub fn totals(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }

    /// From the beginning to the answer's.
    pub fn first_byte(&self) -> Option<Duration> {
        self.answered.get().copied()
    }
}

fn text<T: Display>(value: Option<&T>) -> Option<DisplayValue<&T>> {
    value.map(tracing::field::display)
}

/// Milliseconds with three digits, enough to see what a hop on one machine costs.
fn milliseconds(duration: &Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// The line of one tunnel.
#[derive(Debug)]
pub struct TunnelRecord {
    facts: Arc<TunnelFacts>,
    metrics: Arc<Metrics>,
    begin: Instant,
    /// Streams it has carried.
    pub streams: u64,
    /// The last actor it was bound to.
    pub actor: Option<Arc<Principal>>,
    /// Why it ended; without this it was cut off.
    pub ended: Option<String>,
}

impl TunnelRecord {
    /// A tunnel has been opened.
    pub fn open(facts: &Arc<TunnelFacts>, metrics: &Arc<Metrics>) -> Self {
        metrics.tunnels_opened.inc();
        tracing::info!(tunnel = %facts.id, peer = %facts.peer, way = facts.way, "tunnel opened");
        let (facts, metrics) = (Arc::clone(facts), Arc::clone(metrics));
        Self { facts, metrics, begin: Instant::now(), streams: 0, actor: None, ended: None }
    }
}

impl Drop for TunnelRecord {
    fn drop(&mut self) {
        self.metrics.tunnels_closed.inc();
        tracing::info!(
            target: "access",
            tunnel = %self.facts.id,
            peer = %self.facts.peer,
            forwarded_id = self.facts.forwarded_id,
            kind = "tunnel",
            way = self.facts.way,
            actor = text(self.actor.as_deref()),
            streams = self.streams,
            total_ms = milliseconds(&self.begin.elapsed()),
            ended = self.ended.as_deref().unwrap_or("cut off"),
            "tunnel"
        );
    }
}
