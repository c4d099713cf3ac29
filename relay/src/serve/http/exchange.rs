//! What one HTTP sender's request came to: told when its answer is done with, whichever way.
use std::sync::Arc;

use tokio_util::sync::DropGuard;

use super::super::{access::Line, share::Place, stay::Stay};

/// A request that is being answered by a listener. Writes its line on drop.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// The sender's right to be answered.
    pub(super) stay: Arc<Stay>,
    pub(super) line: Box<Line>,
    /// One of the entity's senders.
    pub(super) _place: Place,
    /// Tells the rendezvous, if there is one, that the sender has gone.
    pub(super) _gone: DropGuard,
}

impl Exchange {
    /// Bytes went to the sender.
    pub(crate) fn went_out(&mut self, bytes: usize) {
        self.line.bytes_down += bytes as u64;
        self.stay.entity().metrics.bytes_to_sender.inc_by(bytes as u64);
    }

    /// How it ended, and whose doing that was.
    pub(crate) fn end(&mut self, outcome: &'static str, fault: &'static str) {
        self.line.end(outcome, fault);
    }
}
