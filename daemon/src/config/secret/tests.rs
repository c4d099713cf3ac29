//! Secrets in real files.
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use secrecy::ExposeSecret as _;

use super::*;

fn file(folder: &Path, name: &str, content: &[u8], mode: u32) {
    fs::write(folder.join(name), content).unwrap();
    fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).unwrap();
}

fn secret(reference: &SecretRef, base: &Path) -> Result<String, String> {
    let read = reference.read(base).map_err(|error| error.to_string())?;
    Ok(read.expose_secret().to_owned())
}

#[test]
fn one_trailing_newline_is_not_part_of_the_secret() {
    let folder = tempfile::tempdir().unwrap();
    for (content, wanted) in
        [("key", "key"), ("key\n", "key"), ("key\r\n", "key"), ("key\n\n", "key\n"), (" key ", " key ")]
    {
        file(folder.path(), "key", content.as_bytes(), 0o600);
        assert_eq!(secret(&SecretRef::File("key".into()), folder.path()).unwrap(), wanted, "{content:?}");
    }
}

#[test]
fn a_file_open_to_others_is_refused_unless_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    for mode in [0o604, 0o602, 0o644, 0o601] {
        file(folder.path(), "key", b"hunter2", mode);
        let refused = secret(&SecretRef::File("key".into()), folder.path()).unwrap_err();
        assert!(refused.contains("others can read or change") && refused.contains("chmod o= "), "{refused}");
        assert!(!refused.contains("hunter2"), "{refused}");
    }
    file(folder.path(), "key", b"hunter2", 0o644);
    assert_eq!(secret(&SecretRef::FileReadableByOthers("key".into()), folder.path()).unwrap(), "hunter2");
    file(folder.path(), "key", b"hunter2", 0o640);
    assert_eq!(secret(&SecretRef::File("key".into()), folder.path()).unwrap(), "hunter2");
}

#[test]
fn files_of_a_kubernetes_volume_may_be_readable_by_others() {
    let volume = tempfile::tempdir().unwrap();
    let generation = volume.path().join("..2026_01");
    fs::create_dir_all(generation.join("keys")).unwrap();
    file(&generation, "key", b"one", 0o644);
    file(&generation.join("keys"), "send", b"two", 0o644);
    symlink("..2026_01", volume.path().join("..data")).unwrap();
    symlink("..data/key", volume.path().join("key")).unwrap();
    symlink("..data/keys", volume.path().join("keys")).unwrap();
    assert_eq!(secret(&SecretRef::File("key".into()), volume.path()).unwrap(), "one");
    assert_eq!(secret(&SecretRef::File("keys/send".into()), volume.path()).unwrap(), "two");
    // A folder that merely looks like a generation is no volume.
    let stale = volume.path().join("..2025_12");
    fs::create_dir(&stale).unwrap();
    file(&stale, "key", b"old", 0o644);
    assert!(secret(&SecretRef::File("..2025_12/key".into()), volume.path()).is_err());
}

#[test]
fn files_that_cannot_be_a_secret_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    file(folder.path(), "empty", b"", 0o600);
    file(folder.path(), "newline", b"\n", 0o600);
    file(folder.path(), "binary", b"\xff\xfe", 0o600);
    file(folder.path(), "large", &vec![b'a'; SECRET_MAX as usize + 1], 0o600);
    fs::create_dir(folder.path().join("folder")).unwrap();
    for (name, why) in [
        ("empty", "is empty"),
        ("newline", "is empty"),
        ("binary", "is not UTF-8"),
        ("large", "SECRET_MAX"),
        ("folder", "is not a regular file"),
        ("absent", "No such file"),
    ] {
        let refused = secret(&SecretRef::File(name.into()), folder.path()).unwrap_err();
        assert!(refused.contains(why) && refused.contains(&format!("{{ file: {name} }}")), "{refused}");
    }
}

#[test]
fn an_environment_variable_that_is_not_set_is_named() {
    let refused = secret(&SecretRef::Env("CAUSEWAY_TEST_ABSENT".to_owned()), Path::new(".")).unwrap_err();
    assert_eq!(refused, "secret { env: CAUSEWAY_TEST_ABSENT }: the variable is not set");
    // Set by every test runner and shell.
    assert!(secret(&SecretRef::Env("PATH".to_owned()), Path::new(".")).is_ok());
}
