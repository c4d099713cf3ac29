use std::{
    fs,
    io::{BufReader, Write as _},
    path::Path,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    file::{File, NOTHING_BEFORE, OpenError},
    *,
};

fn event(name: &str) -> (&'static str, Map<String, Value>) {
    ("granted", fields([("stream", Some(name.into()))]))
}

fn append(file: &mut File, names: &[&str]) {
    file.append("2026-01-01T00:00:00.000Z", names.iter().map(|name| event(name)).collect()).unwrap();
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn check(path: &Path) -> Result<Verified, Broken> {
    verify(BufReader::new(fs::File::open(path).unwrap()))
}

/// A file with `begun` and three grants.
fn written() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut file = File::open(path.clone()).unwrap();
    append(&mut file, &["a", "b"]);
    append(&mut file, &["c"]);
    (folder, path)
}

#[test]
fn lines_are_chained_and_counted_and_only_the_owner_reads_them() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_folder, path) = written();
    let lines = lines(&path);
    assert_eq!(
        lines.iter().map(|line| line["kind"].as_str().unwrap()).collect::<Vec<_>>(),
        ["begun", "granted", "granted", "granted"]
    );
    assert_eq!(lines.iter().map(|line| line["seq"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(lines[0]["previous"], NOTHING_BEFORE);
    let verified = check(&path).unwrap();
    assert_eq!((verified.lines, verified.instances, verified.torn, verified.lost), (4, 1, 0, 0));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_process_continues_the_chain_of_the_one_before() {
    let (_folder, path) = written();
    append(&mut File::open(path.clone()).unwrap(), &["d"]);
    let verified = check(&path).unwrap();
    assert_eq!((verified.lines, verified.instances), (6, 2));
}

#[test]
fn any_line_that_is_removed_changed_swapped_or_added_shows() {
    let (_folder, path) = written();
    let text = fs::read_to_string(&path).unwrap();
    let whole: Vec<&str> = text.lines().collect();
    let verify_lines = |lines: &[&str]| verify(format!("{}\n", lines.join("\n")).as_bytes());
    assert!(verify_lines(&whole).is_ok());
    // All but the last, whose loss only the kept hash shows.
    for removed in 0..whole.len() - 1 {
        let mut lines = whole.clone();
        lines.remove(removed);
        assert!(verify_lines(&lines).is_err(), "line {removed} removed");
        let mut lines = whole.clone();
        let changed = lines[removed].replace("00:00:00", "00:00:01");
        lines[removed] = &changed;
        assert!(matches!(verify_lines(&lines), Err(Broken::Chain { line }) if line == removed as u64 + 2));
        let mut lines = whole.clone();
        lines.swap(removed, removed + 1);
        assert!(verify_lines(&lines).is_err(), "line {removed} swapped");
        let mut lines = whole.clone();
        lines.insert(removed, whole[removed]);
        assert!(verify_lines(&lines).is_err(), "line {removed} doubled");
    }
    assert!(matches!(verify_lines(&whole[1..]), Err(Broken::Beginning)));
    let cut = verify_lines(&whole[..3]).unwrap();
    assert_ne!(cut.last, verify_lines(&whole).unwrap().last);
}

#[test]
fn a_line_that_a_crash_cut_off_is_closed_off_and_counted() {
    let (_folder, path) = written();
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"time\":\"20").unwrap();
    append(&mut File::open(path.clone()).unwrap(), &["d"]);
    let verified = check(&path).unwrap();
    assert_eq!((verified.lines, verified.torn, verified.instances), (7, 1, 2));
}

#[test]
fn a_file_that_was_moved_away_is_begun_anew_and_names_the_line_before() {
    let (folder, path) = written();
    let moved = folder.path().join("audit.1");
    let mut file = File::open(path.clone()).unwrap();
    append(&mut file, &["d"]);
    fs::rename(&path, &moved).unwrap();
    append(&mut file, &["e"]);
    let (old, new) = (check(&moved).unwrap(), check(&path).unwrap());
    assert_eq!(new.lines, 2);
    assert_eq!(lines(&path)[0]["after"], old.last);
    assert_eq!(lines(&path)[0]["seq"], 3, "the count goes on");
}

#[test]
fn what_could_not_be_written_is_tried_on_a_new_file_and_the_chain_holds() {
    let (folder, path) = written();
    let mut file = File::open(path.clone()).unwrap();
    append(&mut file, &["d"]);
    let place = folder.path().join("elsewhere");
    fs::rename(&path, &place).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(file.append("now", vec![event("lost")]).is_err());
    fs::remove_dir(&path).unwrap();
    fs::rename(&place, &path).unwrap();
    append(&mut file, &["e"]);
    let verified = check(&path).unwrap();
    assert_eq!((verified.lines, verified.torn), (7, 0));
}

#[test]
fn links_folders_devices_other_files_and_second_writers_are_refused() {
    let (folder, path) = written();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(File::open(link), Err(OpenError::Kind { .. })));
    assert!(matches!(File::open(folder.path().to_owned()), Err(OpenError::Kind { .. })));
    assert!(matches!(File::open("/dev/null".into()), Err(OpenError::Kind { .. })));
    let first = File::open(path.clone()).unwrap();
    assert!(matches!(File::open(path.clone()), Err(OpenError::Taken { .. })));
    drop(first);
    let foreign = folder.path().join("foreign");
    let exactly = usize::try_from(file::LINE_MAX).unwrap();
    for (length, fits) in [(exactly, true), (exactly + 2, false)] {
        fs::write(&foreign, format!("x\n{}\n", "y".repeat(length))).unwrap();
        assert_eq!(File::open(foreign.clone()).is_ok(), fits, "{length}");
    }
}

#[tokio::test]
async fn a_required_line_is_on_disk_before_its_caller_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let context = Context::new("causeway_test");
    let config = AuditConfig { file: "audit.jsonl".into(), required: true };
    let path = folder.path().join("audit.jsonl");
    let journal = Journal::start(Some(&config), folder.path(), &context).unwrap();
    journal.confirm("granted", fields([("stream", Some("s-1".into()))])).await.unwrap();
    assert_eq!(lines(&path)[1]["stream"], "s-1");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(journal.confirm("granted", Map::new()).await, Err(Unwritten));
    fs::remove_dir(&path).unwrap();
    journal.confirm("granted", Map::new()).await.unwrap();
    let kinds: Vec<_> = lines(&path).iter().map(|line| line["kind"].clone()).collect();
    assert_eq!(kinds, ["begun", "lost", "granted"], "and the file says what is missing");
}

#[tokio::test]
async fn what_is_not_required_goes_on_and_what_is_told_is_written_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let context = Context::new("causeway_test");
    let config = AuditConfig { file: "audit.jsonl".into(), required: false };
    let path = folder.path().join("audit.jsonl");
    let journal = Journal::start(Some(&config), folder.path(), &context).unwrap();
    for _ in 0..100 {
        journal.tell("refused", fields([("reason", Some("x".repeat(TEXT_MAX + 1).into())), ("rule", None)]));
    }
    drop(journal);
    context.shutdown.run(std::time::Duration::from_secs(60)).await;
    let lines = lines(&path);
    assert_eq!(lines.len(), 101);
    assert_eq!(lines[1]["reason"].as_str().unwrap().len(), TEXT_MAX);
    assert!(lines[1].get("rule").is_none());
    assert!(Journal::default().confirm("granted", Map::new()).await.is_ok(), "without a file nothing is asked");
}

#[tokio::test]
async fn lines_that_find_no_room_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let context = Context::new("causeway_test");
    let config = AuditConfig { file: "audit.jsonl".into(), required: false };
    let journal = Journal::start(Some(&config), folder.path(), &context).unwrap();
    // Nobody else runs on this thread, so nothing is written meanwhile.
    for _ in 0..WAITING_MAX + 5 {
        journal.tell("granted", Map::new());
    }
    drop(journal);
    context.shutdown.run(std::time::Duration::from_secs(60)).await;
    let verified = check(&folder.path().join("audit.jsonl")).unwrap();
    assert_eq!(verified.lost, 5);
    assert_eq!(verified.lines, WAITING_MAX as u64 + 2, "with `begun` and `lost`");
}
