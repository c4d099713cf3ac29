//! Following a cluster's CAs (SD-1): what a gateway says it will use, on a tunnel on which it has proven itself by a CA
//! that is trusted already, is written into the trust file. Then a rotation needs nobody here.
//!
//! CAs are added and never taken away: a gateway that does not know of the next one yet must not make us forget it. The
//! file is replaced whole; what cannot be written is told with its remedy, and nothing is trusted that is not in the file.
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use daemon::{admin::Events, process::explain};

use crate::trust::{TrustError, TrustFile};

/// What keeps one cluster's trust file up to date. Cheap to clone; clones write in turn.
#[derive(Debug, Clone)]
pub(crate) struct Follow(Option<Arc<Following>>);

#[derive(Debug)]
struct Following {
    cluster: Arc<str>,
    path: PathBuf,
    events: Events,
    /// What was told last, so that nothing is read or said twice.
    last: Mutex<Vec<String>>,
}

/// Why CAs were not adopted.
#[derive(Debug, thiserror::Error)]
enum AdoptError {
    #[error("the trust file cannot be extended")]
    File(#[from] TrustError),
    #[error("{}: cannot be replaced", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl Follow {
    /// Does nothing.
    pub(crate) fn off() -> Self {
        Self(None)
    }

    pub(crate) fn of(cluster: Arc<str>, path: PathBuf, events: Events) -> Self {
        Self(Some(Arc::new(Following { cluster, path, events, last: Mutex::default() })))
    }

    /// Takes over what a proven gateway says.
    pub(crate) fn adopt(&self, anchors: &[String]) {
        let Some(following) = &self.0 else { return };
        let mut last = following.last.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == anchors {
            return;
        }
        following.take_over(anchors);
        *last = anchors.to_vec();
    }
}

impl Following {
    fn take_over(&self, anchors: &[String]) {
        let (cluster, path) = (&self.cluster, self.path.display());
        match extend(&self.path, anchors) {
            Ok(added) if added.is_empty() => {}
            Ok(added) => {
                tracing::info!(%cluster, %path, adopted = %added.join(", "), "the cluster's next CA is trusted from now on");
                let fields = [("cluster", serde_json::Value::from(&**cluster)), ("spki_sha256", added.into())];
                self.events.emit("trust_adopted", fields);
            }
            Err(error) => {
                let error = explain(&error);
                tracing::error!(
                    %cluster,
                    %path,
                    %error,
                    remedy = "make the file's folder writable for the connector, or carry a new trust file here before \
                              the next CA signs",
                    "the cluster's next CA cannot be kept"
                );
                let fields = [("cluster", serde_json::Value::from(&**cluster)), ("reason", error.into())];
                self.events.emit("trust_not_adopted", fields);
            }
        }
    }
}

/// Adds CAs to the file, and gives the pins of those that are new.
fn extend(path: &Path, anchors: &[String]) -> Result<Vec<String>, AdoptError> {
    let mut file = TrustFile::read(path)?;
    let added = file.adopt(anchors)?;
    if added > 0 {
        let text = file.to_yaml()?;
        replace(path, &text).map_err(|source| AdoptError::Write { path: path.to_owned(), source })?;
    }
    Ok(file.spki_sha256.split_off(file.spki_sha256.len() - added))
}

/// Puts a finished file in the place that `path` leads to, with the rights of the one that was there.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = path.canonicalize()?;
    let folder = path.parent().ok_or(io::ErrorKind::NotFound)?;
    let (mut file, draft) = new_file(folder)?;
    let mut write = || {
        file.set_permissions(fs::metadata(&path)?.permissions())?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, &path)
    };
    write().inspect_err(|_| {
        // It would only be in the way.
        let _ = fs::remove_file(&draft);
    })
}

/// A new file with a name of its own.
fn new_file(folder: &Path) -> io::Result<(fs::File, PathBuf)> {
    let mut bytes = [0_u8; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("the system has no randomness"))?;
    let path = folder.join(format!(".trust-{:016x}", u64::from_be_bytes(bytes)));
    let file = fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
    Ok((file, path))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, time::Duration};

    use super::*;

    fn ca() -> String {
        identity::ca::Authority::generate("test", Duration::from_secs(3600)).unwrap().certificate
    }

    struct World {
        folder: tempfile::TempDir,
        path: PathBuf,
        follow: Follow,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("factory-a.trust.yaml");
            fs::write(&path, TrustFile::new("factory-a", vec![ca()]).unwrap().to_yaml().unwrap()).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            let follow = Follow::of("factory-a".into(), path.clone(), Events::new());
            Self { folder, path, follow }
        }

        fn count(&self) -> usize {
            TrustFile::read(&self.path).unwrap().certificates.len()
        }
    }

    #[test]
    fn what_a_proven_gateway_says_is_in_the_file_for_the_next_start() {
        let world = World::new();
        let anchors = vec![TrustFile::read(&world.path).unwrap().certificates[0].clone(), ca()];
        world.follow.adopt(&anchors);
        assert_eq!(TrustFile::read(&world.path).unwrap().certificates, anchors);
        assert_eq!(fs::metadata(&world.path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(world.folder.path()).unwrap().count(), 1, "no drafts stay behind");
        // A gateway that does not know of it yet takes nothing away.
        world.follow.adopt(&anchors[..1]);
        assert_eq!(world.count(), 2);
    }

    #[test]
    fn a_link_is_followed_and_stays_one() {
        let world = World::new();
        let link = world.folder.path().join("link.yaml");
        std::os::unix::fs::symlink(&world.path, &link).unwrap();
        Follow::of("factory-a".into(), link.clone(), Events::new()).adopt(&[ca()]);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(world.count(), 2);
    }

    #[test]
    fn a_file_that_somebody_broke_is_left_alone() {
        let world = World::new();
        fs::write(&world.path, "cluster: factory-a\n").unwrap();
        world.follow.adopt(&[ca()]);
        assert_eq!(fs::read_to_string(&world.path).unwrap(), "cluster: factory-a\n");
    }

    #[test]
    fn nothing_is_written_unless_it_was_asked_for() {
        let world = World::new();
        Follow::off().adopt(&[ca()]);
        assert_eq!(world.count(), 1);
    }
}
