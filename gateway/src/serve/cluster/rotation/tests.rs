//! Claims about rotation, with a clock that is moved by hand.
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::serve::cluster::{Changed, Shown};

const DAY: Duration = Duration::from_secs(24 * 3600);

struct World {
    folder: tempfile::TempDir,
    now: SystemTime,
}

impl World {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), now: SystemTime::now() }
    }

    fn authority(&self) -> Authority {
        Authority::open(self.folder.path(), "factory-a").unwrap()
    }

    fn shown(&self) -> Shown {
        Shown::new(self.authority(), vec!["gw.example.com".to_owned()], None, self.now).unwrap()
    }

    /// Whether the CA with this number in the order of publication signed the leaf on disk.
    fn signed_by(&self, certificate: &str, at: SystemTime) -> bool {
        let trust = identity::tls::cluster::ClusterTrust::new("factory-a", &[certificate], &[]).unwrap();
        let leaf = fs::read_to_string(self.folder.path().join("leaf.pem")).unwrap();
        let chain = super::super::chain(&split_leaf(&leaf).unwrap().0);
        trust.proves(chain.as_deref(), at)
    }
}

#[test]
fn a_new_ca_is_published_for_thirty_days_before_it_signs() {
    let world = World::new();
    let shown = world.shown();
    let old = shown.anchors()[0].clone();
    assert_eq!(world.authority().rotate(None, world.now).unwrap(), world.now + 30 * DAY);
    let changed = shown.look(world.now).unwrap();
    assert_eq!(changed, Changed { anchors: true, ..Changed::default() });
    assert_eq!(shown.anchors().len(), 2);
    let new = shown.anchors()[1].clone();
    assert_eq!(world.authority().trust_file().unwrap().certificates, [old.clone(), new.clone()]);

    let eve = world.now + 30 * DAY - Duration::from_secs(1);
    shown.look(eve).unwrap();
    assert!(world.signed_by(&old, eve) && !world.signed_by(&new, eve));
    let then = world.now + 30 * DAY;
    let changed = shown.look(then).unwrap();
    assert!(changed.leaf && changed.anchors);
    assert!(world.signed_by(&new, then) && !world.signed_by(&old, then));
    // The new one is first; the old one is still trusted.
    assert_eq!(*shown.anchors(), [new.clone(), old]);
    assert_eq!(shown.look(then).unwrap(), Changed::default());

    assert_eq!(world.authority().retire().unwrap(), 1);
    assert!(shown.look(then).unwrap().anchors);
    assert_eq!(*shown.anchors(), [new]);
    for private in ["ca/ca.key", "leaf.pem"] {
        let mode = fs::metadata(world.folder.path().join(private)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{private}");
    }
}

#[test]
fn one_rotation_at_a_time() {
    let world = World::new();
    world.authority().rotate(None, world.now).unwrap();
    let error = world.authority().rotate(None, world.now).unwrap_err();
    assert!(matches!(&error, RotateError::Begun { .. }), "{error}");
    // Of two that begin at once, one finds that it was too late.
    let world = World::new();
    let (one, two) = (world.authority(), world.authority());
    one.rotate(None, world.now).unwrap();
    assert!(matches!(two.rotate(None, world.now), Err(RotateError::Identity(IdentityError::Io { .. }))));
}

#[test]
fn every_state_between_the_steps_of_a_promotion_is_whole() {
    let world = World::new();
    let folder = world.folder.path().join("ca");
    world.authority().rotate(None, world.now).unwrap();
    let before = world.authority();
    let next = fs::read(folder.join("next.pem")).unwrap();
    let old_key = fs::read(folder.join("ca.key")).unwrap();
    before.promote().unwrap();
    let signs = || world.authority().leaf(&["x.example.com".to_owned()], world.now).is_ok();
    assert!(signs());
    // As it was before `next.pem` went, and before `ca.key` was replaced.
    fs::write(folder.join("next.pem"), next).unwrap();
    assert!(signs());
    fs::write(folder.join("ca.key"), old_key).unwrap();
    assert!(signs());
    // Somebody else goes on from there; a replica that was late repeats it.
    world.authority().promote().unwrap();
    before.promote().unwrap();
    assert!(signs());
    assert_eq!(world.authority().published().len(), 2);
    assert!(world.authority().next_signs().is_none());
}

#[test]
fn there_are_no_more_cas_than_are_followed() {
    let world = World::new();
    for _ in 1..CAS_MAX {
        world.authority().rotate(None, world.now).unwrap();
        world.authority().promote().unwrap();
    }
    assert_eq!(world.authority().published().len(), CAS_MAX);
    assert!(matches!(world.authority().rotate(None, world.now), Err(RotateError::Many)));
}

#[test]
fn a_ca_that_was_kept_elsewhere_is_pinned_and_can_sign() {
    let world = World::new();
    let backup = world.folder.path().join("backup.pem");
    world.shown();
    world.authority().back_up(&backup).unwrap();
    assert!(world.authority().back_up(&backup).is_err(), "nothing is written over it");
    // The file that connectors have from before the loss knows the pin, not the certificate.
    let file = world.authority().trust_file().unwrap();
    assert_eq!((file.certificates.len(), file.backup_pins.len()), (1, 1));
    let lost = file.certificates[0].clone();

    world.authority().rotate(Some(&backup), world.now).unwrap();
    world.authority().promote().unwrap();
    let shown = world.shown();
    assert!(!world.signed_by(&lost, world.now));
    let leaf = fs::read_to_string(world.folder.path().join("leaf.pem")).unwrap();
    let chain = format!("{}{}", split_leaf(&leaf).unwrap().0, shown.anchors()[0]);
    assert!(file.proof().unwrap().proves(super::super::chain(&chain).as_deref(), world.now));
}

#[test]
fn what_is_no_ca_with_its_key_is_not_taken() {
    let world = World::new();
    let given = world.folder.path().join("given.pem");
    let one = generate("factory-a").unwrap();
    let other = generate("factory-a").unwrap();
    let mismatched = ca::Authority { key: other.key, ..one.clone() };
    let request = ca::LeafRequest { name: "x".into(), hosts: vec![], uris: vec![], life: DAY, client: false };
    let leaf = one.issue(&request).unwrap();
    let leaf = ca::Authority { certificate: leaf.certificate, key: leaf.key };
    for text in ["", "no PEM", &one.certificate, &pem(&mismatched), &pem(&leaf)] {
        fs::write(&given, text).unwrap();
        let error = world.authority().rotate(Some(&given), world.now).unwrap_err();
        assert!(matches!(error, RotateError::Given { .. }), "{text}: {error}");
    }
}

#[test]
fn a_damaged_next_ca_is_an_explained_error_and_the_old_one_stays_shown() {
    let world = World::new();
    let shown = world.shown();
    fs::write(world.folder.path().join("ca/next.pem"), "signs from tomorrow\n").unwrap();
    let error = shown.look(world.now).unwrap_err();
    assert!(error.to_string().contains("next.pem") && error.to_string().contains("RFC 3339"), "{error}");
    assert_eq!(shown.anchors().len(), 1);
}
