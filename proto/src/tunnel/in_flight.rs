//! How many streams of one connection are in use: each holds a [`Slot`] until both of its halves are gone.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

#[derive(Debug, Clone, Default)]
pub(super) struct InFlight(Arc<AtomicUsize>);

/// One stream in use.
#[derive(Debug)]
pub(super) struct Slot(InFlight);

impl InFlight {
    pub(super) fn count(&self) -> usize {
        self.0.load(Relaxed)
    }

    pub(super) fn enter(&self) -> Slot {
        self.0.fetch_add(1, Relaxed);
        Slot(self.clone())
    }

    /// One more, unless there are `limit` already.
    pub(super) fn enter_below(&self, limit: usize) -> Option<Slot> {
        let slot = Slot(self.clone());
        // Counted first, so that two at once cannot both be the last.
        (self.0.fetch_add(1, Relaxed) < limit).then_some(slot)
    }

    /// Whether this end of a connection harmed nobody: the peer hung up while no stream was in use. It may do so while
    /// we still have a PING or a WINDOW_UPDATE to write, before we read its farewell.
    pub(super) fn harmless(&self, error: &h2::Error) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
        let hung_up = error.get_io().map(io::Error::kind).is_some_and(|kind| {
            matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
        });
        hung_up && self.count() == 0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}
