//! The access line: one per connection, written when it ends, whichever way.
use std::{net::SocketAddr, time::Instant};

use tracing::info;

/// What one connection came to. Writes its line on drop.
#[derive(Debug)]
pub(crate) struct Line {
    peer: SocketAddr,
    began: Instant,
    /// `connection` until the request is read, then what it asked to be.
    pub(crate) kind: &'static str,
    /// Tracing id.
    pub(crate) id: String,
    /// Path as asked for, cleaned, without query.
    pub(crate) path: String,
    /// Id of the listener: its own, or the one that a sender was joined with.
    pub(crate) listener: String,
    /// Status of our answer; 0 when there was none.
    pub(crate) status: u16,
    /// Payload bytes towards the listener.
    pub(crate) bytes_up: u64,
    /// Payload bytes towards the sender.
    pub(crate) bytes_down: u64,
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
            listener: String::new(),
            status: 0,
            bytes_up: 0,
            bytes_down: 0,
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

    /// How it ended and whose doing that was: `none`, `peer`, `sender`, `listener`, `relay`.
    pub(crate) fn end(&mut self, outcome: &'static str, fault: &'static str) {
        self.outcome = outcome;
        self.fault = fault;
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
            listener = self.listener,
            status = self.status,
            outcome = self.outcome,
            fault = self.fault,
            detail = self.detail,
            bytes_up = self.bytes_up,
            bytes_down = self.bytes_down,
            duration_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "relay connection ended"
        );
    }
}
