//! The access line of one HTTP request.
use std::sync::Arc;

use proto::hybrid::{message::Request, status::clean};
use tokio::time::Instant;
use tracing::info;

use super::{Held, answer::Told};
use crate::listen::knock::outside;

/// Longest text of a relay's in a line.
const SHOWN: usize = 128;

/// What one request came to. Counted and written on drop.
#[derive(Debug)]
pub(super) struct Line {
    held: Arc<Held>,
    began: Instant,
    id: String,
    remote: String,
    method: String,
    path: String,
    status: u16,
    /// How its answer went back.
    pub(super) by: &'static str,
    outcome: &'static str,
    fault: &'static str,
    detail: String,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    first_ms: u64,
}

impl Line {
    pub(super) fn begin(held: &Arc<Held>, by: &'static str) -> Self {
        held.shared.metrics.active_requests.inc();
        Self {
            held: held.clone(),
            began: Instant::now(),
            id: String::new(),
            remote: String::new(),
            method: String::new(),
            path: String::new(),
            status: 0,
            by,
            outcome: "abandoned",
            fault: "unknown",
            detail: String::new(),
            bytes_in: 0,
            bytes_out: 0,
            first_ms: 0,
        }
    }

    /// What the request says about itself. Its query stays out.
    pub(super) fn request(&mut self, request: &Request) {
        let target = request.request_target.as_deref().unwrap_or_default();
        self.id = clean(request.id.as_deref().unwrap_or_default(), SHOWN);
        self.remote = outside(request.remote_endpoint).map(|remote| remote.to_string()).unwrap_or_default();
        self.method = clean(request.method.as_deref().unwrap_or_default(), 32);
        self.path = clean(target.split('?').next().unwrap_or_default(), SHOWN);
    }

    /// The head of the answer is there.
    pub(super) fn answered(&mut self, status: u16, told: Option<Told>) {
        self.status = status;
        self.first_ms = self.began.elapsed().as_millis() as u64;
        let Told { outcome, fault, detail } =
            told.unwrap_or(Told { outcome: "answered", fault: "none", detail: String::new() });
        self.end(outcome, fault, detail);
    }

    /// How it ended. `outcome` and `fault` come from closed sets of names.
    pub(super) fn end(&mut self, outcome: &'static str, fault: &'static str, detail: String) {
        (self.outcome, self.fault, self.detail) = (outcome, fault, detail);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let metrics = &self.held.shared.metrics;
        metrics.active_requests.dec();
        metrics.request_ended(self.outcome, self.by);
        metrics.bytes_to_target.inc_by(self.bytes_in);
        metrics.bytes_to_sender.inc_by(self.bytes_out);
        info!(
            target: "access",
            kind = "request",
            id = self.id,
            relay = %self.held.address,
            remote = self.remote,
            method = self.method,
            path = self.path,
            status = self.status,
            by = self.by,
            outcome = self.outcome,
            fault = self.fault,
            detail = self.detail,
            bytes_in = self.bytes_in,
            bytes_out = self.bytes_out,
            first_ms = self.first_ms,
            duration_ms = self.began.elapsed().as_millis() as u64,
            "request ended"
        );
    }
}
