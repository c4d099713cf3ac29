//! Claims about the identity directory.

use std::{os::unix::fs::PermissionsExt, thread};

use super::*;

fn names() -> Vec<String> {
    vec!["gw.example.com".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()]
}

fn proves(file: &TrustFile, leaf: &Leaf, now: SystemTime) -> bool {
    file.proof().unwrap().proves(chain(&leaf.certificate).as_deref(), now)
}

#[test]
fn an_empty_directory_gets_a_ca_and_a_leaf_that_proves_the_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("identity");
    let authority = Authority::open(&directory, "factory-a").unwrap();
    let now = SystemTime::now();
    let leaf = authority.leaf(&names(), now).unwrap();
    assert!(proves(&authority.trust_file().unwrap(), &leaf, now));
    let other = Authority::open(&folder.path().join("other"), "factory-a").unwrap();
    assert!(!proves(&other.trust_file().unwrap(), &leaf, now));
    for private in ["ca/ca.key", "leaf.pem"] {
        let mode = fs::metadata(directory.join(private)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{private}");
    }
}

#[test]
fn a_second_start_uses_what_the_first_one_made() {
    let folder = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let open = || Authority::open(folder.path(), "factory-a").unwrap();
    let first = open().leaf(&names(), now).unwrap();
    assert_eq!(first.certificate, open().leaf(&names(), now).unwrap().certificate);
    let renamed = open().leaf(&["other.example.com".to_owned()], now).unwrap();
    assert_ne!(first.certificate, renamed.certificate, "other names need another leaf");
}

#[test]
fn replicas_that_race_agree_on_one_ca() {
    let folder = tempfile::tempdir().unwrap();
    let pins: Vec<_> = thread::scope(|scope| {
        let replicas: Vec<_> =
            (0..8).map(|_| scope.spawn(|| Authority::open(folder.path(), "factory-a").unwrap())).collect();
        replicas.into_iter().map(|replica| replica.join().unwrap().trust_file().unwrap().spki_sha256).collect()
    });
    assert!(pins.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no drafts stay behind");
}

#[test]
fn a_leaf_is_renewed_at_two_thirds_of_its_life() {
    let folder = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let authority = Authority::open(folder.path(), "factory-a").unwrap();
    let leaf = authority.leaf(&names(), now).unwrap();
    let day = Duration::from_secs(24 * 3600);
    assert!(authority.will_do(&leaf.certificate, &names(), now + 19 * day));
    assert!(!authority.will_do(&leaf.certificate, &names(), now + 21 * day));
    let shown = Shown::new(authority, names(), None, now).unwrap();
    assert_eq!(shown.look(now + 19 * day).unwrap(), Changed::default());
    assert!(shown.look(now + 21 * day).unwrap().leaf);
}

#[test]
fn a_leaf_is_renewed_though_what_vouches_for_clients_is_broken() {
    let folder = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let authority = Authority::open(&folder.path().join("identity"), "factory-a").unwrap();
    let clients = identity::ca::Authority::generate("clients", Duration::from_secs(3600)).unwrap();
    let file = folder.path().join("clients.pem");
    fs::write(&file, &clients.certificate).unwrap();
    let files = ClientFiles::of(file.clone());
    let shown = Shown::new(authority, names(), Some(files), now).unwrap();
    for broken in ["garbage", ""] {
        fs::write(&file, broken).unwrap();
        assert_eq!(shown.look(now).unwrap(), Changed::default(), "{broken:?}");
    }
    fs::remove_file(&file).unwrap();
    let due = now + Duration::from_secs(21 * 24 * 3600);
    assert_eq!(shown.look(due).unwrap(), Changed { leaf: true, ..Changed::default() });
    assert!(shown.ends() > Some(due));
}

#[test]
fn a_leaf_on_disk_that_is_not_ours_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let authority = Authority::open(folder.path(), "factory-a").unwrap();
    fs::write(folder.path().join("leaf.pem"), "garbage").unwrap();
    let first = authority.leaf(&names(), now).unwrap();
    let foreign = Authority::open(&folder.path().join("other"), "factory-a").unwrap().leaf(&names(), now).unwrap();
    let text = format!("{}{}", foreign.certificate, foreign.key.expose());
    fs::write(folder.path().join("leaf.pem"), text).unwrap();
    let second = authority.leaf(&names(), now).unwrap();
    assert_ne!(second.certificate, foreign.certificate);
    assert_ne!(second.certificate, first.certificate);
}

#[test]
fn a_key_of_another_ca_is_an_explained_error() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    Authority::open(&one, "factory-a").unwrap();
    Authority::open(&two, "factory-a").unwrap();
    fs::copy(two.join("ca/ca.key"), one.join("ca/ca.key")).unwrap();
    let error = Authority::open(&one, "factory-a").unwrap().leaf(&names(), SystemTime::now()).unwrap_err();
    assert!(matches!(error, IdentityError::Unfit { .. }), "{error}");
}
