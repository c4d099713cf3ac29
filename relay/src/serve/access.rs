//! The access line: one per connection, or per request of an HTTP sender, written when it ends, whichever way.
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use proto::hybrid::status::clean;
use tracing::info;

use super::authorize::Grant;

/// Longest holder that a log line shows: issuers make subjects of any length.
const HOLDER_SHOWN: usize = 128;

/// What one connection came to. Writes its line on drop.
#[derive(Debug)]
pub(crate) struct Line {
    peer: SocketAddr,
    began: Instant,
    /// `connection` until the request is read, then what it asked to be.
    pub(crate) kind: &'static str,
    /// Tracing id.
    pub(crate) id: String,
    /// Path as asked for, cleaned, without query; then the name of the entity.
    pub(crate) path: String,
    /// Method and path of an HTTP sender's request, cleaned, without query.
    pub(crate) asked: Option<(String, String)>,
    /// Whose token it came with: a rule, a principal, or `anonymous`.
    pub(crate) holder: String,
    /// Id of the listener: its own, or the one that a sender was joined with.
    pub(crate) listener: String,
    /// Status of our answer; 0 when there was none.
    pub(crate) status: u16,
    /// Payload bytes towards the listener; whoever moves them may count them here, to the very end.
    pub(crate) bytes_up: Arc<AtomicU64>,
    /// Payload bytes towards the sender.
    pub(crate) bytes_down: u64,
    first_byte: Option<Duration>,
    outcome: &'static str,
    /// Whose doing the end was.
    fault: &'static str,
    detail: String,
    silent: bool,
}

impl Line {
    /// For a connection that was just accepted.
    pub(crate) fn new(peer: SocketAddr) -> Self {
        Self {
            peer,
            began: Instant::now(),
            kind: "connection",
            id: String::new(),
            path: String::new(),
            asked: None,
            holder: String::new(),
            listener: String::new(),
            status: 0,
            bytes_up: Arc::default(),
            bytes_down: 0,
            first_byte: None,
            outcome: "abandoned",
            fault: "peer",
            detail: String::new(),
            silent: false,
        }
    }

    /// Where the connection came from.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// By whose grant it goes on.
    pub(crate) fn held_by(&mut self, grant: &Grant) {
        self.holder = clean(&grant.holder, HOLDER_SHOWN);
    }

    /// How it ended and whose doing that was: `none`, `peer`, `sender`, `listener`, `relay`.
    pub(crate) fn end(&mut self, outcome: &'static str, fault: &'static str) {
        self.outcome = outcome;
        self.fault = fault;
    }

    /// The answer begins now.
    pub(crate) fn answers(&mut self, status: u16) {
        self.status = status;
        self.first_byte = Some(self.began.elapsed());
    }

    /// More about the end, for people.
    pub(crate) fn because(&mut self, detail: impl ToString) {
        self.detail = detail.to_string();
    }

    /// Another line tells about this connection.
    pub(crate) fn told_elsewhere(mut self: Box<Self>) {
        self.silent = true;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.silent {
            return;
        }
        info!(
            target: "access",
            kind = self.kind,
            peer = %self.peer,
            id = self.id,
            entity = self.path,
            method = self.asked.as_ref().map(|(method, _)| method),
            path = self.asked.as_ref().map(|(_, path)| path),
            holder = self.holder,
            listener = self.listener,
            status = self.status,
            outcome = self.outcome,
            fault = self.fault,
            detail = self.detail,
            bytes_up = self.bytes_up.load(Relaxed),
            bytes_down = self.bytes_down,
            first_byte_ms = self.first_byte.map(millis),
            duration_ms = millis(self.began.elapsed()),
            "relay connection ended"
        );
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
