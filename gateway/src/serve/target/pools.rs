//! Connections to targets, kept apart for each worker: one that was made on another thread would wake its user across
//! threads at every piece that it carries.

use daemon::workers::{Worker, Workers};

use super::{pool::Pool, shared::SharedPool};

/// Those of every worker.
#[derive(Debug)]
pub struct Pools {
    each: Box<[OfWorker]>,
}

/// Those of one worker.
#[derive(Debug, Default)]
pub struct OfWorker {
    /// Idle connections that one request at a time uses.
    pub single: Pool,
    /// Connections that requests share.
    pub shared: SharedPool,
}

impl Pools {
    /// Empty ones.
    pub fn new(workers: &Workers) -> Self {
        Self { each: (0..workers.count()).map(|_| OfWorker::default()).collect() }
    }

    /// Those of the worker that this is asked on.
    pub fn here(&self) -> &OfWorker {
        // Another process's worker, as in tests, shares somebody's.
        &self.each[Worker::here().index() % self.each.len()]
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &OfWorker> {
        self.each.iter()
    }
}
