//! The access line: one for each stream, written when it ends, however it ends. It bears the same stream id as the
//! gateway's line, and no token, query or body.
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use proto::tunnel::failure::Failure;

use super::{
    clusters::Lead,
    config::{FaceKind, Speaks},
    face::refusal::By,
    metrics::FaceMetrics,
    stream_id::StreamId,
    target::Target,
};

/// One stream, from the moment it was asked for. Dropping it writes the line; unless told otherwise the client has gone.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) stream: StreamId,
    /// Unknown until it was read from what the client says.
    target: Option<Arc<Target>>,
    kind: FaceKind,
    speaks: Speaks,
    began: Instant,
    /// Those of no cluster, until it is known.
    metrics: Arc<FaceMetrics>,
    /// Payload bytes towards the target.
    pub(crate) sent: Arc<AtomicU64>,
    /// Payload bytes towards the client.
    pub(crate) received: u64,
    method: Option<http::Method>,
    path: Option<String>,
    tunnel: Option<(u64, &'static str)>,
    status: Option<u16>,
    first: Option<Duration>,
    ended: Option<Result<(), (Failure, By)>>,
}

impl Access {
    pub(crate) fn new(stream: StreamId, kind: FaceKind, speaks: Speaks, nowhere: Arc<FaceMetrics>) -> Self {
        Self {
            stream,
            target: None,
            kind,
            speaks,
            began: Instant::now(),
            metrics: nowhere,
            sent: Arc::default(),
            received: 0,
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
        self.target = Some(Arc::clone(&lead.target));
        self.metrics = Arc::clone(&lead.metrics);
        self.metrics.opened.inc();
    }

    /// The cluster it is to go to, empty as long as nobody knows.
    pub(crate) fn cluster(&self) -> &str {
        self.target.as_ref().map_or("", |target| &target.cluster)
    }

    /// What an HTTP client asks for; the path comes without its query.
    pub(crate) fn asks(&mut self, method: &http::Method, path: &str) {
        self.method = Some(method.clone());
        self.path = Some(path.to_owned());
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
        self.metrics.closed.inc();
        self.metrics.bytes_out.inc_by(sent);
        self.metrics.bytes_in.inc_by(self.received);
        let failure = self.ended.as_ref().and_then(|ended| ended.as_ref().err());
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
            cluster = self.target.as_ref().map(|target| &*target.cluster),
            target_host = self.target.as_ref().map(|target| target.authority()),
            tunnel = self.tunnel.map(|(id, _)| id),
            way = self.tunnel.map(|(_, way)| way),
            method = self.method.as_ref().map(http::Method::as_str),
            path = self.path.as_deref(),
            status = self.status,
            bytes_to_target = sent,
            bytes_from_target = self.received,
            first_byte_ms = self.first.map(millis),
            total_ms = millis(self.began.elapsed()),
            ended,
            decided_by = failure.map(|(_, by)| by.shown(self.cluster())),
            reached_target = failure.map(|(failure, _)| failure.reached.name()),
            reason = failure.map(|(failure, _)| failure.message.as_str()),
            "stream"
        );
    }
}

fn millis(time: Duration) -> f64 {
    // Microseconds are as fine as anybody reads.
    (time.as_secs_f64() * 1e6).round() / 1e3
}
