//! Files that change: snapshots of bytes, published when the content has really changed. Follows the atomic symlink
//! swaps of Kubernetes volumes, and polls besides, for file systems that do not notify.
//!
//! The kernel's notifications only say *look now*: what is published comes from reading the files again, so a missed,
//! doubled or misleading notification costs at most [`POLL`]. Files are read in a thread of their own, never in the
//! runtime; it ends within [`POLL`] of its last receiver.
use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::watch;
use tracing::{debug, info, warn};

mod places;

pub use self::places::Places;

/// Largest file that is followed. Certificates, keys, policies and key sets are kilobytes; anything above this is a
/// mistake that must not fill memory.
pub const FILE_MAX: u64 = 1024 * 1024;

/// How often files are read without any notification; bounds how stale a snapshot can be.
pub const POLL: Duration = Duration::from_secs(3);

/// A change is read when nothing has moved for this long, so that two files written one after the other are mostly seen
/// together.
const QUIET: Duration = Duration::from_millis(50);

/// But no later than this after its first notification, so that a folder that never rests is still followed.
const QUIET_MAX: Duration = Duration::from_millis(500);

/// What a file was found to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// This.
    Bytes(Bytes),
    /// There is no such file.
    Absent,
    /// Something is there that cannot be read.
    Unreadable,
}

impl Content {
    fn of(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound { Self::Absent } else { Self::Unreadable }
    }

    /// The bytes, if there are any.
    pub fn bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Absent | Self::Unreadable => None,
        }
    }
}

/// The content of a set of files, in the order they were named.
pub type Snapshot = Vec<Content>;

/// Reads files once, as they are read when they are followed.
pub fn read(paths: &[PathBuf]) -> Snapshot {
    let content = |path: &PathBuf| read_bounded(path).map_or_else(|error| Content::of(&error), Content::Bytes);
    paths.iter().map(content).collect()
}

/// Watches `paths` until every receiver is gone. The first snapshot is there at once. A file above [`FILE_MAX`] counts
/// as unreadable.
///
/// # Errors
/// When no thread can be started. That the kernel does not notify is no error: then polling does it alone.
pub fn files(paths: Vec<PathBuf>) -> io::Result<watch::Receiver<Snapshot>> {
    follow(paths, POLL, true)
}

/// The same for files that somebody may change in a hurry: however the file system is made, a change is seen within
/// `poll` and `QUIET_MAX`.
///
/// # Errors
/// As [`files`].
pub fn files_every(poll: Duration, paths: Vec<PathBuf>) -> io::Result<watch::Receiver<Snapshot>> {
    follow(paths, poll, true)
}

fn follow(paths: Vec<PathBuf>, poll: Duration, notified: bool) -> io::Result<watch::Receiver<Snapshot>> {
    let (notify, notifications) = mpsc::sync_channel(1);
    // Set up before the first reading, so that no change falls between the two.
    let watcher = notified.then(|| Folders::new(notify.clone())).flatten();
    let mut files = Files { complaints: vec![None; paths.len()], paths };
    let (publish, receiver) = watch::channel(Snapshot::new());
    let mut follower = Follower { watcher, notifications, poll, publish, _notify: notify };
    follower.look(&mut files);
    thread::Builder::new().name("file-watch".to_owned()).spawn(move || follower.run(&mut files))?;
    Ok(receiver)
}

struct Follower {
    watcher: Option<Folders>,
    notifications: mpsc::Receiver<()>,
    poll: Duration,
    publish: watch::Sender<Snapshot>,
    /// Keeps the channel open when there is no watcher.
    _notify: mpsc::SyncSender<()>,
}

impl Follower {
    fn run(&mut self, files: &mut Files) {
        while self.wait() {
            self.look(files);
        }
    }

    /// Until it is time to look again; false when nobody listens any more.
    fn wait(&self) -> bool {
        if self.publish.is_closed() {
            return false;
        }
        pause(&self.notifications, self.poll);
        !self.publish.is_closed()
    }

    fn look(&mut self, files: &mut Files) {
        if let Some(watcher) = &mut self.watcher {
            watcher.cover(&files.paths);
        }
        let snapshot = files.read();
        self.publish.send_if_modified(|current| {
            let changed = *current != snapshot;
            if changed {
                *current = snapshot;
            }
            changed
        });
    }
}

/// Until a notification and the quiet after it, or for as long as `poll`.
fn pause(notifications: &mpsc::Receiver<()>, poll: Duration) {
    if notifications.recv_timeout(poll).is_ok() {
        let latest = Instant::now() + QUIET_MAX;
        while Instant::now() < latest && notifications.recv_timeout(QUIET).is_ok() {}
    }
}

/// The files, and what was last complained about, so that each trouble is logged once and not at every poll.
struct Files {
    paths: Vec<PathBuf>,
    complaints: Vec<Option<String>>,
}

impl Files {
    fn read(&mut self) -> Snapshot {
        let read = self.paths.iter().zip(&mut self.complaints).map(|(path, complaint)| match read_bounded(path) {
            Ok(bytes) => {
                *complaint = None;
                Content::Bytes(bytes)
            }
            Err(error) => {
                let content = Content::of(&error);
                let error = error.to_string();
                if complaint.as_ref() != Some(&error) {
                    // Some files need not be there; whoever needs one says so itself.
                    if content == Content::Absent {
                        info!(path = %path.display(), "file is absent");
                    } else {
                        warn!(path = %path.display(), %error, "file cannot be read");
                    }
                    *complaint = Some(error);
                }
                content
            }
        });
        read.collect()
    }
}

fn read_bounded(path: &Path) -> io::Result<Bytes> {
    // Opening a pipe that nobody writes to would block for ever.
    if !path.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {FILE_MAX} bytes")));
    }
    Ok(bytes.into())
}

/// Notifications for the folders that hold the files: a file that is replaced is a new one, its folder stays.
struct Folders {
    watcher: RecommendedWatcher,
    covered: BTreeSet<PathBuf>,
}

impl Folders {
    fn new(notify: mpsc::SyncSender<()>) -> Option<Self> {
        let handler = move |event: notify::Result<notify::Event>| {
            // Reading the files is itself an access event. A full channel means that a look is due anyway.
            if !matches!(event, Ok(notify::Event { kind: notify::EventKind::Access(_), .. })) {
                let _ = notify.try_send(());
            }
        };
        match notify::recommended_watcher(handler) {
            Ok(watcher) => Some(Self { watcher, covered: BTreeSet::new() }),
            Err(error) => {
                debug!(%error, "no file notifications here, polling alone");
                None
            }
        }
    }

    /// The folder of each path as named, where Kubernetes swaps `..data`, and the folder it leads to.
    fn cover(&mut self, paths: &[PathBuf]) {
        let named = paths.iter().cloned();
        let real = paths.iter().filter_map(|path| path.canonicalize().ok());
        let folders: BTreeSet<_> = named.chain(real).filter_map(|path| folder_of(&path)).collect();
        for gone in self.covered.difference(&folders) {
            // It may have been deleted, which ended the watch already.
            let _ = self.watcher.unwatch(gone);
        }
        let watched = |folder: &PathBuf| {
            self.covered.contains(folder) || self.watcher.watch(folder, RecursiveMode::NonRecursive).is_ok()
        };
        self.covered = folders.into_iter().filter(watched).collect();
    }
}

fn folder_of(path: &Path) -> Option<PathBuf> {
    let folder = path.parent()?;
    Some(if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() })
}

#[cfg(test)]
mod tests;
