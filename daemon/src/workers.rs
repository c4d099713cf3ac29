//! Threads for work that belongs together. A tunnel, its streams and the sockets at their ends wake each other all the
//! time; across threads that costs more than moving their bytes. So each worker is one thread with a runtime of its own,
//! and whatever belongs together is put on the same one.
//!
//! A panic ends one task, not its worker. Tasks stay owned by [`Shutdown`], wherever they run; where a task runs is a
//! matter of speed, never of correctness. Without a [`Crew`], as in tests and one-shot commands, there is one worker:
//! whichever runtime the work is given from.

use std::{
    cell::Cell,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::Duration,
};

use tokio::{
    runtime::{Builder, Handle},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::shutdown::Shutdown;

/// More threads than this gain nothing for one process: whoever needs more runs replicas.
const WORKERS_MAX: usize = 32;

thread_local! {
    /// Which worker this thread is.
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// One worker of a process, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Worker(usize);

impl Worker {
    /// The worker that this is asked on; on a thread that is none, the first.
    pub fn here() -> Self {
        Self(CURRENT.get().unwrap_or(0))
    }

    /// For tables with an entry for each worker.
    pub fn index(self) -> usize {
        self.0
    }
}

/// The workers of a process. Cheap to clone; all clones are the same ones.
#[derive(Debug, Clone, Default)]
pub struct Workers {
    /// Empty without a crew.
    handles: Arc<[Handle]>,
}

impl Workers {
    /// How many there are; at least one.
    pub fn count(&self) -> usize {
        self.handles.len().max(1)
    }

    /// Spawns a task that `shutdown` waits for on this worker.
    pub fn spawn<F>(&self, worker: Worker, shutdown: &Shutdown, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        match self.handles.get(worker.0) {
            Some(handle) => shutdown.spawn_on(task, handle),
            None => shutdown.spawn(task),
        }
    }

    /// An empty count of something that is to be spread over the workers.
    pub fn spread(&self) -> Spread {
        Spread { counts: (0..self.count()).map(|_| AtomicUsize::new(0)).collect(), turn: Arc::default() }
    }
}

/// How many of something each worker has. Cheap to clone; all clones are the same count.
#[derive(Debug, Clone)]
pub struct Spread {
    counts: Arc<[AtomicUsize]>,
    turn: Arc<AtomicUsize>,
}

impl Spread {
    /// A place for one more, on the worker that has fewest of those that are `suitable`; if none is, on any. Equals take
    /// turns.
    pub fn place(&self, suitable: impl Fn(Worker) -> bool) -> Berth {
        let (count, turn) = (self.counts.len(), self.turn.fetch_add(1, Relaxed));
        let fewest = |suitable: &dyn Fn(Worker) -> bool| {
            let all = (0..count).map(|step| (turn + step) % count).map(Worker);
            all.filter(|worker| suitable(*worker)).min_by_key(|worker| self.counts[worker.0].load(Relaxed))
        };
        let worker = fewest(&suitable).or_else(|| fewest(&|_| true)).unwrap_or(Worker(0));
        self.counts[worker.0].fetch_add(1, Relaxed);
        Berth { counts: Arc::clone(&self.counts), worker }
    }
}

/// Something's place on a worker, counted until it is dropped.
#[derive(Debug)]
pub struct Berth {
    counts: Arc<[AtomicUsize]>,
    worker: Worker,
}

impl Berth {
    /// Which worker.
    pub fn worker(&self) -> Worker {
        self.worker
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        self.counts[self.worker.0].fetch_sub(1, Relaxed);
    }
}

/// The threads themselves. Whoever holds it stops them when the last task has ended.
#[derive(Debug)]
pub struct Crew {
    workers: Workers,
    stop: CancellationToken,
    /// Says that a thread has ended, by hanging up.
    ended: mpsc::Receiver<()>,
}

impl Crew {
    /// One worker for each core that this process may use.
    ///
    /// # Errors
    /// When the system gives no thread or no runtime; those that were started end.
    pub fn start() -> io::Result<Self> {
        Self::of(thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX))
    }

    /// This many workers.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn of(count: usize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let unwind = stop.clone().drop_guard();
        let (alive, ended) = mpsc::channel();
        let mut handles = Vec::with_capacity(count);
        for index in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            handles.push(runtime.handle().clone());
            let (stop, alive) = (stop.clone(), alive.clone());
            thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                CURRENT.set(Some(index));
                runtime.block_on(stop.cancelled());
                // Blocking threads (DNS, files) may hang in the kernel; they do not hold up the end.
                runtime.shutdown_background();
                drop(alive);
            })?;
        }
        unwind.disarm();
        Ok(Self { workers: Workers { handles: handles.into() }, stop, ended })
    }

    /// What work is given to.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// Ends them; tasks that are left are dropped. Waits at most `within`, since one of them may never come back.
    pub fn stop(self, within: Duration) {
        self.stop.cancel();
        // Nothing is ever sent: an error other than a timeout says that the last thread has ended.
        let _ = self.ended.recv_timeout(within);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn a_task_runs_on_the_worker_that_it_was_given_to() {
        let (crew, shutdown) = (Crew::of(3).unwrap(), Shutdown::new());
        let workers = crew.workers().clone();
        for index in [2, 0, 1] {
            let (tell, told) = oneshot::channel();
            workers.spawn(Worker(index), &shutdown, async move {
                // What it spawns stays with it.
                tokio::task::yield_now().await;
                tell.send((Worker::here(), thread::current().name().map(str::to_owned))).unwrap();
            });
            assert_eq!(told.blocking_recv().unwrap(), (Worker(index), Some(format!("worker-{index}"))));
        }
        assert_eq!(Worker::here(), Worker(0), "this thread is none");
        crew.stop(Duration::from_secs(10));
    }

    #[test]
    fn a_panic_ends_its_task_alone() {
        let (crew, shutdown) = (Crew::of(1).unwrap(), Shutdown::new());
        let panicked = crew.workers().spawn(Worker(0), &shutdown, async { panic!("on purpose") });
        let after = crew.workers().spawn(Worker(0), &shutdown, async { 7 });
        let wait = Builder::new_current_thread().build().unwrap();
        assert!(wait.block_on(panicked).unwrap_err().is_panic());
        assert_eq!(wait.block_on(after).unwrap(), 7);
        crew.stop(Duration::from_secs(10));
    }

    #[test]
    fn stopping_drops_what_is_left_and_waits_for_it() {
        struct Told(Arc<AtomicUsize>);
        impl Drop for Told {
            fn drop(&mut self) {
                self.0.fetch_add(1, Relaxed);
            }
        }
        let (crew, shutdown) = (Crew::of(2).unwrap(), Shutdown::new());
        let dropped = Arc::new(AtomicUsize::new(0));
        for index in 0..2 {
            let told = Told(Arc::clone(&dropped));
            crew.workers().spawn(Worker(index), &shutdown, async move {
                let _told = told;
                std::future::pending::<()>().await;
            });
        }
        crew.stop(Duration::from_secs(10));
        assert_eq!(dropped.load(Relaxed), 2);
    }

    #[tokio::test]
    async fn without_a_crew_work_stays_where_it_is_given() {
        let (workers, shutdown) = (Workers::default(), Shutdown::new());
        assert_eq!((workers.count(), Worker::here()), (1, Worker(0)));
        assert_eq!(workers.spawn(Worker::here(), &shutdown, async { 7 }).await.unwrap(), 7);
    }

    #[test]
    fn places_go_to_the_least_occupied_worker_that_suits() {
        let crew = Crew::of(3).unwrap();
        let spread = crew.workers().spread();
        let first: Vec<_> = (0..3).map(|_| spread.place(|_| true)).collect();
        let mut taken: Vec<_> = first.iter().map(|berth| berth.worker().index()).collect();
        taken.sort_unstable();
        assert_eq!(taken, [0, 1, 2], "each gets one");
        let of_two = spread.place(|worker| worker.index() == 2);
        assert_eq!(of_two.worker(), Worker(2));
        assert_ne!(spread.place(|_| true).worker(), Worker(2));
        drop((first, of_two));
        let alone = spread.place(|worker| worker.index() == 1);
        assert_eq!(alone.worker(), Worker(1));
        assert_ne!(spread.place(|_| false).worker(), Worker(1), "if none suits, any does");
        crew.stop(Duration::from_secs(10));
    }
}
