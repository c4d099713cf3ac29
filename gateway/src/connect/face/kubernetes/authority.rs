//! The connector's own little certificate authority, for its Kubernetes faces alone: what it signs is trusted by whoever
//! uses a kubeconfig that `gateway kubeconfig` wrote, and by nobody else.
//!
//! ```text
//! <state>/kubernetes-face/ca.crt    embedded in kubeconfigs
//! <state>/kubernetes-face/ca.key    0600
//! ```
//!
//! What is absent is made, whole, by renaming a finished folder, so that a connector and `gateway kubeconfig` that start at
//! once use the same. Leaves live in memory only and are replaced at two thirds of their life, when somebody connects.

use std::{
    fmt, fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use daemon::{clock::SharedClock, config::SecretRef};
use identity::{
    ca::{Authority, CaError, Leaf, LeafRequest},
    tls,
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// Folder below the connector's state.
const FOLDER: &str = "kubernetes-face";

/// Life of the CA: kubeconfigs that embed it work for so long.
const AUTHORITY_LIFE: Duration = Duration::from_secs(5 * 365 * 24 * 3600);

/// Life of a leaf.
const LEAF_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Why there is no CA.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file or folder cannot be read or written.
    #[error("{}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The key cannot be used.
    #[error("the key of the faces' CA cannot be used")]
    Key(#[source] daemon::config::ConfigError),
    /// It cannot sign.
    #[error("{}: this CA cannot sign: remove the folder, and write the kubeconfigs anew", path.display())]
    Unfit {
        /// Its folder.
        path: PathBuf,
        /// Why not.
        source: CaError,
    },
    /// It is over, or nearly.
    #[error("{}: this CA has ended: remove the folder, and write the kubeconfigs anew", path.display())]
    Ended {
        /// Its folder.
        path: PathBuf,
    },
}

/// Opens the CA below the connector's `state`, and makes it if there is none.
///
/// # Errors
/// When it cannot be read, written or used.
pub(crate) fn open(state: &Path, now: SystemTime) -> Result<Authority, AuthorityError> {
    let folder = state.join(FOLDER);
    if !folder.exists() {
        create(state, &folder)?;
    }
    let certificate = folder.join("ca.crt");
    let certificate =
        fs::read_to_string(&certificate).map_err(|source| AuthorityError::Io { path: certificate, source })?;
    let key = SecretRef::File("ca.key".into()).read(&folder).map_err(AuthorityError::Key)?;
    let authority = Authority { certificate, key: key.into() };
    let leaf = issue(&authority, &["localhost".to_owned()])
        .map_err(|source| AuthorityError::Unfit { path: folder.clone(), source })?;
    // A leaf never outlives its CA, so one that is due at once says that the CA is over.
    if renew_at(&leaf.certificate).is_none_or(|at| at <= now) {
        return Err(AuthorityError::Ended { path: folder });
    }
    Ok(authority)
}

fn issue(authority: &Authority, names: &[String]) -> Result<Leaf, CaError> {
    authority.issue(&LeafRequest {
        name: "causeway connector".to_owned(),
        hosts: names.to_vec(),
        uris: Vec::new(),
        life: LEAF_LIFE,
        client: false,
    })
}

/// Two thirds of a certificate's life.
fn renew_at(pem: &str) -> Option<SystemTime> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).ok()?;
    let seconds = |at: x509_parser::time::ASN1Time| u64::try_from(at.timestamp()).ok();
    let (begin, end) = (seconds(parsed.validity().not_before)?, seconds(parsed.validity().not_after)?);
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(begin + end.saturating_sub(begin) / 3 * 2))
}

fn create(state: &Path, folder: &Path) -> Result<(), AuthorityError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| AuthorityError::Io { path, source }
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(state).map_err(at(state))?;
    let authority = Authority::generate("causeway connector, Kubernetes faces", AUTHORITY_LIFE)
        .map_err(|source| AuthorityError::Unfit { path: folder.to_owned(), source })?;
    let mut random = [0_u8; 8];
    aws_lc_rs::rand::fill(&mut random).expect("the system has randomness, or TLS would not work either");
    let draft = state.join(format!(".{FOLDER}-{:016x}", u64::from_be_bytes(random)));
    fs::DirBuilder::new().mode(0o700).create(&draft).map_err(at(&draft))?;
    for (name, text) in [("ca.key", authority.key.expose()), ("ca.crt", authority.certificate.as_str())] {
        let path = draft.join(name);
        let opened = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let written = opened.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
        written.map_err(at(&path))?;
    }
    match fs::rename(&draft, folder) {
        Err(_) if folder.join("ca.crt").exists() => {
            // Somebody else was faster, and theirs is in force; a draft that stays behind does no harm.
            let _ = fs::remove_dir_all(&draft);
            Ok(())
        }
        renamed => renamed.map_err(at(folder)),
    }
}

/// TLS of one face: HTTP/1.1 alone is offered, since the protocols of `exec` and `port-forward` are changes of it.
pub(crate) fn server(authority: &Authority, names: Vec<String>, clock: SharedClock) -> Arc<ServerConfig> {
    let resolver = Leaves { authority: authority.clone(), names, clock, shown: Mutex::default() };
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// The leaf of one face.
struct Leaves {
    authority: Authority,
    names: Vec<String>,
    clock: SharedClock,
    shown: Mutex<Option<(Arc<CertifiedKey>, SystemTime)>>,
}

impl fmt::Debug for Leaves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaves").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Leaves {
    fn make(&self) -> Option<(Arc<CertifiedKey>, SystemTime)> {
        let leaf = issue(&self.authority, &self.names)
            .inspect_err(|error| tracing::error!(%error, "the faces' CA cannot sign"))
            .ok()?;
        let chain = vec![CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).ok()?];
        let key = PrivateKeyDer::from_pem_slice(leaf.key.expose().as_bytes()).ok()?;
        let certified = CertifiedKey::from_der(chain, key, &tls::provider()).ok()?;
        Some((Arc::new(certified), renew_at(&leaf.certificate)?))
    }
}

impl ResolvesServerCert for Leaves {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        if shown.as_ref().is_none_or(|(_, renew_at)| *renew_at <= now) {
            *shown = self.make();
        }
        shown.as_ref().map(|(key, _)| Arc::clone(key))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_made_once_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let now = SystemTime::now();
        let made = open(&state, now).unwrap();
        assert_eq!(open(&state, now).unwrap().certificate, made.certificate);
        for (path, mode) in [("", 0o700), ("kubernetes-face", 0o700), ("kubernetes-face/ca.key", 0o600)] {
            let found = fs::metadata(state.join(path)).unwrap().permissions().mode() & 0o777;
            assert_eq!(found, mode, "{path}");
        }
        let drafts = fs::read_dir(&state).unwrap().count();
        assert_eq!(drafts, 1, "no draft is left behind");
    }

    #[test]
    fn one_that_cannot_be_used_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        open(folder.path(), now).unwrap();
        let error = open(folder.path(), now + AUTHORITY_LIFE).unwrap_err();
        assert!(matches!(error, AuthorityError::Ended { .. }), "{error}");
        fs::write(folder.path().join("kubernetes-face/ca.crt"), "nothing").unwrap();
        let error = open(folder.path(), now).unwrap_err().to_string();
        assert!(error.contains("remove the folder"), "{error}");
    }
}
