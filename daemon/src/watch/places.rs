//! Files and folders whose set changes while they are followed: whoever reads one file learns from it which others count.
//!
//! What is published is only that something has changed, and everything is to be read again. It is judged by what the
//! file system says about each place (which file it is, its size and times), since a fleet has tens of thousands of
//! them. A place that changed within the last moments is looked at once more: a second change may bear the same time.
use std::{
    collections::BTreeSet,
    fs::Metadata,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::watch;

use super::{Folders, POLL, pause};

/// Coarsest step of a file system's times: two changes within it may look like one.
const COARSE: Duration = Duration::from_secs(2);

/// Looking may take one part in so many of the time: with very many places, polls come less often.
const LOOKING_PART: u32 = 200;

/// Places that are followed, until this is dropped.
#[derive(Debug)]
pub struct Places {
    wanted: Arc<Mutex<Arc<BTreeSet<PathBuf>>>>,
    changes: watch::Receiver<u64>,
    notify: mpsc::SyncSender<()>,
}

impl Places {
    /// Follows nothing yet.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start() -> io::Result<Self> {
        Self::start_with(POLL, true)
    }

    pub(super) fn start_with(poll: Duration, notified: bool) -> io::Result<Self> {
        let (notify, notifications) = mpsc::sync_channel(1);
        let (publish, changes) = watch::channel(0);
        let wanted = Arc::new(Mutex::default());
        let follower = Follower {
            watcher: notified.then(|| Folders::new(notify.clone())).flatten(),
            notifications,
            poll,
            wanted: Arc::clone(&wanted),
            publish,
            seen: Vec::new(),
            places: Arc::default(),
        };
        thread::Builder::new().name("place-watch".to_owned()).spawn(move || follower.run())?;
        Ok(Self { wanted, changes, notify })
    }

    /// Follows these, instead of those before. A set that differs counts as a change: what was read before it was
    /// followed may be stale.
    pub fn follow(&self, places: BTreeSet<PathBuf>) {
        *lock(&self.wanted) = Arc::new(places);
        // A full channel means that a look is due anyway.
        let _ = self.notify.try_send(());
    }

    /// Resolves when something has changed since it last did. Cancel safe.
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            // The thread ends only with us, or by a panic that was logged.
            std::future::pending().await
        }
    }
}

struct Follower {
    watcher: Option<Folders>,
    notifications: mpsc::Receiver<()>,
    poll: Duration,
    wanted: Arc<Mutex<Arc<BTreeSet<PathBuf>>>>,
    publish: watch::Sender<u64>,
    places: Arc<BTreeSet<PathBuf>>,
    /// One per place, in their order.
    seen: Vec<Option<Stamp>>,
}

impl Follower {
    fn run(mut self) {
        let mut rest = self.poll;
        loop {
            pause(&self.notifications, rest);
            if self.publish.is_closed() {
                return;
            }
            let began = Instant::now();
            self.look();
            rest = self.poll.max(began.elapsed() * LOOKING_PART);
        }
    }

    fn look(&mut self) {
        let wanted = Arc::clone(&lock(&self.wanted));
        let exchanged = wanted != self.places;
        self.places = wanted;
        if exchanged {
            // Before the look, so that no change falls between the two.
            self.cover();
        }
        let seen: Vec<_> = self.places.iter().map(|place| Stamp::of(place)).collect();
        if exchanged || seen != self.seen {
            self.cover();
            self.publish.send_modify(|changes| *changes += 1);
        }
        self.seen = seen.into_iter().map(|stamp| stamp.filter(Stamp::is_settled)).collect();
    }

    fn cover(&mut self) {
        if let Some(watcher) = &mut self.watcher {
            // A folder counts for what is in it, whatever that is called.
            let inside = self.places.iter().filter(|place| place.is_dir()).map(|folder| folder.join("any"));
            watcher.cover(&self.places.iter().cloned().chain(inside).collect::<Vec<_>>());
        }
    }
}

/// What the file system says about a place.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
    file: (u64, u64, i64, i64),
}

impl Stamp {
    fn of(place: &Path) -> Option<Self> {
        let metadata = place.metadata().ok()?;
        Some(Self { length: metadata.len(), modified: metadata.modified().ok(), file: identity(&metadata) })
    }

    /// Whether a change that is still to come cannot look the same.
    fn is_settled(&self) -> bool {
        // A time in the future tells nothing, and would never settle.
        self.modified.is_none_or(|modified| modified.elapsed().map_or(true, |age| age > COARSE))
    }
}

/// Device, number, and when the entry itself changed.
#[cfg(unix)]
fn identity(metadata: &Metadata) -> (u64, u64, i64, i64) {
    use std::os::unix::fs::MetadataExt as _;
    (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> (u64, u64, i64, i64) {
    (0, 0, 0, 0)
}

fn lock(wanted: &Mutex<Arc<BTreeSet<PathBuf>>>) -> MutexGuard<'_, Arc<BTreeSet<PathBuf>>> {
    wanted.lock().unwrap_or_else(PoisonError::into_inner)
}
