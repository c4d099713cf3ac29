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
    config::{FaceKind, Speaks},
    face::refusal::{By, reached},
    metrics::FaceMetrics,
    stream_id::StreamId,
    target::Target,
};

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Both directions in good order.
    Completed,
    /// The client went away.
    ClientGone,
    /// Something failed; the code says what.
    Failed,
}

impl Ended {
    fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::ClientGone => "client_gone",
            Self::Failed => "failed",
        }
    }
}

/// One stream, from the moment it was asked for. Dropping it writes the line; unless told otherwise the client has gone.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) stream: StreamId,
    target: Arc<Target>,
    kind: FaceKind,
    speaks: Speaks,
    began: Instant,
    metrics: FaceMetrics,
    /// Payload bytes towards the target.
    pub(crate) sent: Arc<AtomicU64>,
    /// Payload bytes towards the client.
    pub(crate) received: u64,
    method: Option<http::Method>,
    path: Option<String>,
    tunnel: Option<(u64, &'static str)>,
    status: Option<u16>,
    first: Option<Duration>,
    ended: Ended,
    failure: Option<(Failure, By)>,
}

impl Access {
    pub(crate) fn new(
        stream: StreamId,
        target: Arc<Target>,
        kind: FaceKind,
        speaks: Speaks,
        metrics: FaceMetrics,
    ) -> Self {
        metrics.opened.inc();
        Self {
            stream,
            target,
            kind,
            speaks,
            began: Instant::now(),
            metrics,
            sent: Arc::default(),
            received: 0,
            method: None,
            path: None,
            tunnel: None,
            status: None,
            first: None,
            ended: Ended::ClientGone,
            failure: None,
        }
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
        self.ended = Ended::Completed;
    }

    /// It failed.
    pub(crate) fn failed(&mut self, failure: &Failure, by: By) {
        self.ended = Ended::Failed;
        self.failure = Some((failure.clone(), by));
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        let sent = self.sent.load(Ordering::Relaxed);
        self.metrics.closed.inc();
        self.metrics.bytes_out.inc_by(sent);
        self.metrics.bytes_in.inc_by(self.received);
        let failure = self.failure.as_ref();
        tracing::info!(
            target: "access",
            stream = self.stream.as_str(),
            kind = self.kind.name(),
            speaks_as = self.speaks.name(),
            target = %self.target,
            tunnel = self.tunnel.map(|(id, _)| id),
            way = self.tunnel.map(|(_, way)| way),
            method = self.method.as_ref().map(http::Method::as_str),
            path = self.path.as_deref(),
            status = self.status,
            bytes_out = sent,
            bytes_in = self.received,
            ttfb_ms = self.first.map(millis),
            total_ms = millis(self.began.elapsed()),
            ended = self.ended.name(),
            code = failure.map(|(failure, _)| failure.code.name()),
            decided_by = failure.map(|(_, by)| by.shown(&self.target.cluster)),
            reached_target = failure.map(|(failure, _)| reached(failure.reached)),
            error = failure.map(|(failure, _)| failure.message.as_str()),
            "stream"
        );
    }
}

fn millis(time: Duration) -> f64 {
    // Microseconds are as fine as anybody reads.
    (time.as_secs_f64() * 1e6).round() / 1e3
}
