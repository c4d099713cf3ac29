//! Watching real files.
use std::{fs, os::unix::fs::symlink};

use super::*;

/// Longer than any test may take to see a change; shorter than the runner's patience.
const PATIENCE: Duration = Duration::from_secs(20);

/// With notifications alone (polling would come too late for the test), and with polling alone.
const NOTIFIED: (Duration, bool) = (Duration::from_secs(600), true);
const POLLED: (Duration, bool) = (Duration::from_millis(10), false);

fn content(text: &Option<&str>) -> Content {
    text.map_or(Content::Absent, |text| Content::Bytes(Bytes::copy_from_slice(text.as_bytes())))
}

async fn until(receiver: &mut watch::Receiver<Snapshot>, wanted: &[Option<&str>]) {
    let wanted: Vec<_> = wanted.iter().map(content).collect();
    let seen = receiver.wait_for(|snapshot| *snapshot == wanted);
    tokio::time::timeout(PATIENCE, seen).await.expect("the change is seen").unwrap();
}

#[test]
fn the_first_snapshot_is_there_at_once() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), "one").unwrap();
    let receiver = files(vec![folder.path().join("a"), folder.path().join("missing")]).unwrap();
    assert_eq!(*receiver.borrow(), [Content::Bytes(Bytes::from("one")), Content::Absent]);
}

#[test]
fn what_cannot_be_read_is_not_what_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("folder")).unwrap();
    fs::File::create(folder.path().join("large")).unwrap().set_len(FILE_MAX + 1).unwrap();
    let paths: Vec<_> = ["folder", "large", "missing"].map(|name| folder.path().join(name)).into();
    let expected = [Content::Unreadable, Content::Unreadable, Content::Absent];
    assert_eq!(read(&paths), expected);
    assert_eq!(*files(paths).unwrap().borrow(), expected);
}

#[tokio::test]
async fn rewritten_replaced_created_and_removed_files_are_seen() {
    for (poll, notified) in [NOTIFIED, POLLED] {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&a, "one").unwrap();
        let mut receiver = follow(vec![a.clone(), b.clone()], poll, notified).unwrap();
        fs::write(&a, "two").unwrap();
        until(&mut receiver, &[Some("two"), None]).await;
        fs::write(folder.path().join("new"), "three").unwrap();
        fs::rename(folder.path().join("new"), &a).unwrap();
        until(&mut receiver, &[Some("three"), None]).await;
        fs::write(&b, "beta").unwrap();
        until(&mut receiver, &[Some("three"), Some("beta")]).await;
        fs::remove_file(&a).unwrap();
        until(&mut receiver, &[None, Some("beta")]).await;
    }
}

/// How the kubelet updates a volume: a new folder, then `..data` is renamed over.
fn swap(volume: &Path, generation: &str, content: &str) {
    fs::create_dir(volume.join(generation)).unwrap();
    fs::write(volume.join(generation).join("tls.crt"), content).unwrap();
    symlink(generation, volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
}

#[tokio::test]
async fn atomic_swaps_of_a_kubernetes_volume_are_seen_each_time() {
    for (poll, notified) in [NOTIFIED, POLLED] {
        let volume = tempfile::tempdir().unwrap();
        swap(volume.path(), "..2026_01", "one");
        symlink("..data/tls.crt", volume.path().join("tls.crt")).unwrap();
        let mut receiver = follow(vec![volume.path().join("tls.crt")], poll, notified).unwrap();
        until(&mut receiver, &[Some("one")]).await;
        swap(volume.path(), "..2026_02", "two");
        until(&mut receiver, &[Some("two")]).await;
        fs::remove_dir_all(volume.path().join("..2026_01")).unwrap();
        swap(volume.path(), "..2026_03", "three");
        until(&mut receiver, &[Some("three")]).await;
    }
}

#[tokio::test]
async fn the_same_content_written_again_is_not_published() {
    let folder = tempfile::tempdir().unwrap();
    let (same, other) = (folder.path().join("same"), folder.path().join("other"));
    fs::write(&same, "one").unwrap();
    let mut receiver = follow(vec![same.clone(), other.clone()], POLLED.0, POLLED.1).unwrap();
    receiver.mark_unchanged();
    fs::write(&same, "one").unwrap();
    fs::write(&other, "two").unwrap();
    receiver.changed().await.unwrap();
    assert_eq!(*receiver.borrow_and_update(), [content(&Some("one")), content(&Some("two"))]);
}

#[tokio::test]
async fn a_file_above_the_limit_counts_as_unreadable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large");
    fs::write(&path, vec![b'a'; FILE_MAX as usize]).unwrap();
    let mut receiver = follow(vec![path.clone()], POLLED.0, POLLED.1).unwrap();
    assert_eq!(receiver.borrow()[0].bytes().map(Bytes::len), Some(FILE_MAX as usize));
    fs::write(&path, vec![b'a'; FILE_MAX as usize + 1]).unwrap();
    let seen = receiver.wait_for(|snapshot| *snapshot == [Content::Unreadable]);
    tokio::time::timeout(PATIENCE, seen).await.expect("the change is seen").unwrap();
}

#[test]
fn what_is_not_a_regular_file_is_not_opened() {
    let error = read_bounded(Path::new("/dev/zero")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn the_thread_ends_with_its_last_receiver() {
    let folder = tempfile::tempdir().unwrap();
    let (notify, notifications) = mpsc::sync_channel(1);
    let (publish, receiver) = watch::channel(Snapshot::new());
    let mut follower = Follower { watcher: None, notifications, poll: POLL, publish, _notify: notify };
    drop(receiver);
    let mut files = Files { paths: vec![folder.path().join("a")], complaints: vec![None] };
    // Returns instead of looking for ever.
    tokio::task::spawn_blocking(move || follower.run(&mut files)).await.unwrap();
}

async fn changed(places: &mut Places) {
    tokio::time::timeout(PATIENCE, places.changed()).await.expect("the change is seen");
}

#[tokio::test]
async fn changes_of_files_and_folders_that_are_exchanged_meanwhile_are_seen() {
    for (poll, notified) in [NOTIFIED, POLLED] {
        let folder = tempfile::tempdir().unwrap();
        let (file, entities) = (folder.path().join("relay.yaml"), folder.path().join("entities.d"));
        fs::write(&file, "one").unwrap();
        fs::create_dir(&entities).unwrap();
        let mut places = Places::start_with(poll, notified).unwrap();
        places.follow([file.clone(), entities.clone()].into());
        changed(&mut places).await;
        fs::write(&file, "two").unwrap();
        changed(&mut places).await;
        fs::write(entities.join("a.yaml"), "").unwrap();
        changed(&mut places).await;
        // The new file counts once it is followed, and so does one that is not there yet.
        let (inside, missing) = (entities.join("a.yaml"), folder.path().join("missing.key"));
        places.follow([file.clone(), entities.clone(), inside.clone(), missing.clone()].into());
        changed(&mut places).await;
        fs::write(&inside, "more").unwrap();
        changed(&mut places).await;
        fs::write(&missing, "key").unwrap();
        changed(&mut places).await;
        fs::remove_file(&inside).unwrap();
        changed(&mut places).await;
    }
}

#[tokio::test]
async fn a_second_change_within_the_step_of_the_clock_is_not_missed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    fs::write(&file, "one").unwrap();
    let mut places = Places::start_with(Duration::from_millis(10), false).unwrap();
    places.follow([file.clone()].into());
    changed(&mut places).await;
    // Same length, same time, same file: nothing but the content differs.
    let time = fs::metadata(&file).unwrap().modified().unwrap();
    fs::write(&file, "two").unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    changed(&mut places).await;
}

#[tokio::test]
async fn what_rests_is_told_once_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("old");
    fs::write(&file, "one").unwrap();
    let hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    fs::File::options().write(true).open(&file).unwrap().set_modified(hour_ago).unwrap();
    let mut places = Places::start_with(Duration::from_millis(5), false).unwrap();
    places.follow([file.clone()].into());
    changed(&mut places).await;
    // A hundred polls and no change among them.
    let quiet = tokio::time::timeout(Duration::from_millis(500), places.changed()).await;
    assert!(quiet.is_err(), "told again though nothing changed");
}
