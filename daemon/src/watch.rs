//! Files that change: snapshots of bytes, published when the content has really changed. Follows the atomic symlink
//! swaps of Kubernetes volumes, and polls besides, for file systems that do not notify.
use std::path::PathBuf;

use bytes::Bytes;
use tokio::sync::watch;

/// The content of a set of files, in the order they were named; `None` where a file is missing or unreadable.
pub type Snapshot = Vec<Option<Bytes>>;

/// Watches `paths` until every receiver is gone. The first snapshot is there at once.
pub fn files(paths: Vec<PathBuf>) -> std::io::Result<watch::Receiver<Snapshot>> {
    let _ = paths;
    todo!()
}
