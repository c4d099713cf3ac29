//! The access line: one for each stream, written when it ends, however it ends. It bears the same stream id as the
//! gateway's line, and no token, query or body.
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use daemon::traces::{Begun, Told, Value};
use http::{HeaderMap, HeaderValue};
use proto::tunnel::{failure::Failure, pb};

use super::{
    clusters::{Lead, Reach},
    config::{FaceKind, Speaks},
    face::refusal::By,
    metrics::FaceMetrics,
    stream_id::StreamId,
    target::Target,
};
use crate::{blocked::Blocked, fault::Fault};

/// Where a stream is to go.
#[derive(Debug)]
enum Goal {
    Target(Arc<Target>),
    /// As its caller says.
    Said(String),
}

/// One stream, from the moment it was asked for. Dropping it writes the line; unless told otherwise the client has gone.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) stream: StreamId,
    /// Unknown until it was read from what the client says.
    cluster: Option<Arc<str>>,
    target: Option<Goal>,
    kind: FaceKind,
    speaks: Speaks,
    began: Instant,
    /// Those of no cluster, until it is known.
    metrics: Arc<FaceMetrics>,
    /// Payload bytes towards the target.
    pub(crate) sent: Arc<AtomicU64>,
    /// Payload bytes towards the client.
    pub(crate) received: u64,
    /// Waits for the gateway's credit.
    pub(crate) blocked_to_target: Blocked,
    /// Waits for the client to take what there is for it.
    pub(crate) blocked_to_client: Blocked,
    /// If traces are exported.
    span: Option<Begun>,
    method: Option<http::Method>,
    path: Option<String>,
    tunnel: Option<(u64, &'static str)>,
    status: Option<u16>,
    first: Option<Duration>,
    ended: Option<Result<(), (Failure, By)>>,
}

impl Access {
    pub(crate) fn new(
        stream: StreamId,
        kind: FaceKind,
        speaks: Speaks,
        nowhere: Arc<FaceMetrics>,
        span: Option<Begun>,
    ) -> Self {
        Self {
            stream,
            cluster: None,
            target: None,
            kind,
            speaks,
            began: Instant::now(),
            metrics: nowhere,
            sent: Arc::default(),
            received: 0,
            blocked_to_target: Blocked::default(),
            blocked_to_client: Blocked::default(),
            span,
            method: None,
            path: None,
            tunnel: None,
            status: None,
            first: None,
            ended: None,
        }
    }

    /// Where it is to go.
    pub(crate) fn leads_to(&mut self, lead: &Lead) {
        let target = Goal::Target(Arc::clone(&lead.target));
        self.known(&lead.target.cluster, target, &lead.metrics);
    }

    /// The same, where the caller names the target in its own way.
    pub(crate) fn leads(&mut self, reach: &Reach, target: String) {
        self.known(&reach.cluster, Goal::Said(target), &reach.metrics);
    }

    fn known(&mut self, cluster: &Arc<str>, target: Goal, metrics: &Arc<FaceMetrics>) {
        self.cluster = Some(Arc::clone(cluster));
        self.target = Some(target);
        self.metrics = Arc::clone(metrics);
        self.metrics.opened.inc();
    }

    /// The cluster it is to go to, empty as long as nobody knows.
    pub(crate) fn cluster(&self) -> &str {
        self.cluster.as_deref().unwrap_or_default()
    }

    /// What an HTTP client asks for; the path comes without its query.
    pub(crate) fn asks(&mut self, method: &http::Method, path: &str) {
        self.method = Some(method.clone());
        self.path = Some(path.to_owned());
    }

    /// What opens the stream, with our span as the one that the gateway is called from.
    pub(crate) fn traced(&self, (mut metadata, open): (HeaderMap, pb::Open)) -> (HeaderMap, pb::Open) {
        let ours = self.span.as_ref().and_then(|span| HeaderValue::from_str(&span.traceparent()).ok());
        if let Some(ours) = ours {
            metadata.insert("traceparent", ours);
        }
        (metadata, open)
    }

    /// The tunnel that carries it.
    pub(crate) fn carried_by(&mut self, tunnel: u64, way: &'static str) {
        self.tunnel = Some((tunnel, way));
    }

    /// The target, or whoever refused, has begun to answer.
    pub(crate) fn answered(&mut self, status: Option<u16>) {
        self.status = status;
        self.first.get_or_insert_with(|| self.began.elapsed());
    }

    /// It ended in good order.
    pub(crate) fn completed(&mut self) {
        self.ended = Some(Ok(()));
    }

    /// It failed.
    pub(crate) fn failed(&mut self, failure: &Failure, by: By) {
        self.ended = Some(Err((failure.clone(), by)));
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        let sent = self.sent.load(Ordering::Relaxed);
        if self.target.is_none() {
            self.metrics.opened.inc();
        }
        let failure = self.ended.as_ref().and_then(|ended| ended.as_ref().err());
        let fault = self.fault();
        self.metrics.closed(fault, self.first);
        self.metrics.bytes_out.inc_by(sent);
        self.metrics.bytes_in.inc_by(self.received);
        self.metrics.blocked_out.inc_by(self.blocked_to_target.total().as_secs_f64());
        self.metrics.blocked_in.inc_by(self.blocked_to_client.total().as_secs_f64());
        let ended = match &self.ended {
            None => "client_gone",
            Some(Ok(())) => "ok",
            Some(Err((failure, _))) => failure.code.name(),
        };
        tracing::info!(
            target: "access",
            stream = self.stream.as_str(),
            kind = self.kind.name(),
            speaks_as = self.speaks.name(),
            cluster = self.cluster.as_deref(),
            target_host = self.target_host(),
            trace = self.span.as_ref().map(Begun::traceparent),
            tunnel = self.tunnel.map(|(id, _)| id),
            way = self.tunnel.map(|(_, way)| way),
            method = self.method.as_ref().map(http::Method::as_str),
            path = self.path.as_deref(),
            status = self.status,
            bytes_to_target = sent,
            bytes_from_target = self.received,
            first_byte_ms = self.first.map(millis),
            blocked_to_target_ms = millis(self.blocked_to_target.total()),
            blocked_to_client_ms = millis(self.blocked_to_client.total()),
            total_ms = millis(self.began.elapsed()),
            ended,
            fault = fault.name(),
            decided_by = failure.map(|(_, by)| by.shown(self.cluster())),
            reached_target = failure.map(|(failure, _)| failure.reached.name()),
            reason = failure.map(|(failure, _)| failure.message.as_str()),
            "stream"
        );
        if let Some(span) = self.span.take() {
            let told = if span.is_recorded() { self.told(sent, ended, fault) } else { Told::default() };
            span.end(self.began.elapsed(), told);
        }
    }
}

impl Access {
    fn target_host(&self) -> Option<String> {
        self.target.as_ref().map(|goal| match goal {
            Goal::Target(target) => target.authority(),
            Goal::Said(name) => name.clone(),
        })
    }

    /// Whose doing the end was. A client that goes is the caller.
    fn fault(&self) -> Fault {
        match &self.ended {
            None => Fault::Caller,
            Some(Ok(())) => Fault::Nobody,
            Some(Err((failure, By::Gateway))) => Fault::of(failure.code),
            Some(Err((failure, By::Connector))) => Fault::found_by_connector(failure.code),
        }
    }

    /// What its span says: what the line says, too.
    fn told(&self, sent: u64, ended: &'static str, fault: Fault) -> Told {
        let method = self.method.as_ref().map(|method| method.as_str().to_owned());
        let texts = [
            ("causeway.stream", Some(self.stream.to_string())),
            ("causeway.kind", Some(self.kind.name().to_owned())),
            ("causeway.cluster", self.cluster.as_deref().map(str::to_owned)),
            ("causeway.way", self.tunnel.map(|(_, way)| way.to_owned())),
            ("causeway.ended", Some(ended.to_owned())),
            ("causeway.fault", Some(fault.name().to_owned())),
            ("server.address", self.target_host()),
            ("http.request.method", method.clone()),
            ("url.path", self.path.clone()),
        ];
        let numbers = [
            ("http.response.status_code", self.status.map(i64::from)),
            ("causeway.bytes_to_target", i64::try_from(sent).ok()),
            ("causeway.bytes_from_target", i64::try_from(self.received).ok()),
        ];
        let texts = texts.into_iter().filter_map(|(key, value)| Some((key, Value::Text(value?))));
        let numbers = numbers.into_iter().filter_map(|(key, value)| Some((key, Value::Number(value?))));
        let name = method.unwrap_or_else(|| self.kind.name().to_owned());
        let error = (fault != Fault::Nobody).then_some(ended);
        Told { name, attributes: texts.chain(numbers).collect(), error }
    }
}

fn millis(time: Duration) -> f64 {
    // Microseconds are as fine as anybody reads.
    (time.as_secs_f64() * 1e6).round() / 1e3
}
