//! The cluster's identity on disk (SD-1): a CA of its own, and the leaf that this gateway shows.
//!
//! ```text
//! <directory>/ca/ca.crt       CA certificates, the signing one first (several after a rotation)
//! <directory>/ca/ca.key       key of the first one, 0600
//! <directory>/ca/next.pem     the CA that will sign, its key, and from when on, 0600; during a rotation only
//! <directory>/ca/backup-pins  SPKI SHA-256 of CAs that are kept elsewhere, one a line; if there are any
//! <directory>/leaf.pem        the leaf and its key, 0600
//! ```
//!
//! What is absent is made. Several replicas may start on one directory at once: the CA appears whole, by renaming a
//! finished folder to a name that only one of them can take, and the others use the winner's; a leaf is replaced by
//! renaming a finished file, and any leaf of the signing CA will do. A leaf lives 30 days and is renewed at two thirds of
//! its life while the gateway runs, and when another CA begins to sign; new connections see the new one.

mod clients;
mod rotation;
mod shown;

use std::{
    fs,
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use daemon::config::SecretRef;
use identity::{
    ca::{self, Leaf, LeafRequest},
    secret::Secret,
    tls::{TlsError, cluster::ClusterTrust},
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_parser::extensions::GeneralName;

use self::rotation::Next;
pub use self::{
    clients::ClientFiles,
    rotation::{OVERLAP, RotateError},
    shown::{ALPN, Anchors, Changed, Shown},
};
use crate::trust::{TrustError, TrustFile};

/// Life of a CA: long enough that rotation is a decision, not a surprise.
pub const AUTHORITY_LIFE: Duration = Duration::from_secs(5 * 365 * 24 * 3600);

/// Life of a leaf (SD-1).
pub const LEAF_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Why the identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file or folder cannot be read or written.
    #[error("{}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A certificate or key cannot be made.
    #[error("the cluster's CA cannot sign")]
    Ca(#[source] ca::CaError),
    /// A key file cannot be used.
    #[error("the CA key cannot be used")]
    Key(#[source] daemon::config::ConfigError),
    /// A certificate cannot be used.
    #[error("the cluster's certificates cannot be used")]
    Tls(#[source] TlsError),
    /// The CA's key and certificate do not belong together, or the clock is wrong.
    #[error(
        "{}: what this CA signs does not verify against its own certificate: ca.crt and ca.key do not belong together, \
         or this machine's clock is wrong", path.display()
    )]
    Unfit {
        /// The CA's folder.
        path: PathBuf,
    },
    /// The CAs of clients cannot be used.
    #[error("listen.client_ca: {}: {message}", path.display())]
    ClientCa {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The CA that will sign cannot be read.
    #[error("{}: {message}", path.display())]
    Next {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

/// The cluster's CA, as it was when it was read.
#[derive(Debug)]
pub struct Authority {
    cluster: String,
    directory: PathBuf,
    /// The signing one first.
    certificates: Vec<String>,
    key: Secret,
    next: Option<Next>,
    backup_pins: Vec<String>,
}

impl Authority {
    /// Opens the CA in `directory`, and makes it if there is none.
    ///
    /// # Errors
    /// When it cannot be read, written or used.
    pub fn open(directory: &Path, cluster: &str) -> Result<Self, IdentityError> {
        let folder = directory.join("ca");
        if !folder.exists() {
            create(directory, &folder, cluster)?;
        }
        Self::read(directory, cluster)
    }

    /// Reads the CA that is there.
    fn read(directory: &Path, cluster: &str) -> Result<Self, IdentityError> {
        let folder = directory.join("ca");
        let certificates = split_pem(&read(&folder.join("ca.crt"))?);
        let next = Next::read(&folder)?;
        let key = SecretRef::File("ca.key".into()).read(&folder).map_err(IdentityError::Key)?;
        let authority = Self {
            cluster: cluster.to_owned(),
            directory: directory.to_owned(),
            key: rotation::key(certificates.first(), key.into(), next.as_ref()),
            certificates,
            next,
            backup_pins: rotation::backup_pins(&folder)?,
        };
        authority.trust_file().map_err(|error| match error {
            TrustError::Certificates(source) => IdentityError::Tls(source),
            _ => IdentityError::Unfit { path: folder },
        })?;
        Ok(authority)
    }

    /// Reads it again.
    fn again(&self) -> Result<Self, IdentityError> {
        Self::read(&self.directory, &self.cluster)
    }

    fn folder(&self) -> PathBuf {
        self.directory.join("ca")
    }

    /// CA certificates that are to be trusted, PEM, the signing one first: those that sign or have signed, and the one
    /// that will.
    pub fn published(&self) -> Vec<String> {
        let next = self.next.iter().map(|next| &next.ca.certificate).filter(|next| !self.certificates.contains(next));
        self.certificates.iter().chain(next).cloned().collect()
    }

    fn signing(&self) -> &str {
        self.certificates.first().map_or("", String::as_str)
    }

    /// The public half.
    ///
    /// # Errors
    /// When a certificate cannot be used.
    pub fn trust_file(&self) -> Result<TrustFile, TrustError> {
        let file = TrustFile::new(&self.cluster, self.published())?;
        let file = TrustFile { backup_pins: self.backup_pins.clone(), ..file };
        file.check()?;
        Ok(file)
    }

    /// The leaf on disk if it will do for these names, else a new one, put on disk.
    ///
    /// # Errors
    /// When none can be made, or what was made does not verify.
    pub fn leaf(&self, names: &[String], now: SystemTime) -> Result<Leaf, IdentityError> {
        let path = self.directory.join("leaf.pem");
        if let Ok(text) = fs::read_to_string(&path)
            && let Some((certificate, key)) = split_leaf(&text)
            && self.will_do(&certificate, names, now)
        {
            return Ok(Leaf { certificate, key });
        }
        let signer = ca::Authority { certificate: self.signing().to_owned(), key: self.key.clone() };
        let leaf = self.issue(&signer, names, now)?;
        if !self.will_do(&leaf.certificate, names, now) {
            return Err(IdentityError::Unfit { path: self.directory.join("ca") });
        }
        let text = format!("{}\n{}", leaf.certificate.trim_end(), leaf.key.expose());
        replace(&path, text.as_bytes())?;
        Ok(leaf)
    }

    /// When the leaf on disk is due for renewal, if there is one.
    pub fn leaf_renews(&self) -> Option<SystemTime> {
        let text = fs::read_to_string(self.directory.join("leaf.pem")).ok()?;
        Facts::of(chain(&split_leaf(&text)?.0)?.first()?).map(|facts| facts.renew_at)
    }

    fn issue(&self, signer: &ca::Authority, names: &[String], now: SystemTime) -> Result<Leaf, IdentityError> {
        let request = LeafRequest {
            name: format!("causeway gateway of {}", self.cluster),
            hosts: names.to_vec(),
            uris: vec![format!("causeway://{}", self.cluster)],
            life: LEAF_LIFE,
            client: false,
        };
        signer.issue_at(&request, now).map_err(IdentityError::Ca)
    }

    /// Whether a leaf is one of the CA that signs now, has these names, and is not due for renewal.
    fn will_do(&self, pem: &str, names: &[String], now: SystemTime) -> bool {
        let Some(chain) = chain(pem) else { return false };
        let trust = ClusterTrust::new(&self.cluster, &[self.signing()], &[]);
        let proven = trust.is_ok_and(|trust| trust.proves(Some(&chain), now));
        proven && Facts::of(&chain[0]).is_some_and(|facts| facts.hosts == sorted(names) && now < facts.renew_at)
    }
}

/// When a leaf ends, PEM.
fn ends(pem: &str) -> Option<SystemTime> {
    let chain = chain(pem)?;
    let (_, parsed) = x509_parser::parse_x509_certificate(chain.first()?).ok()?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(seconds))
}

/// What we need to know of a leaf.
struct Facts {
    hosts: Vec<String>,
    renew_at: SystemTime,
}

impl Facts {
    fn of(leaf: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf).ok()?;
        let mut hosts = Vec::new();
        if let Ok(Some(names)) = parsed.subject_alternative_name() {
            for name in &names.value.general_names {
                match name {
                    GeneralName::DNSName(name) => hosts.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => hosts.push(address(bytes)?.to_string()),
                    _ => {}
                }
            }
        }
        let seconds = |at: x509_parser::time::ASN1Time| u64::try_from(at.timestamp()).ok();
        let begin = seconds(parsed.validity().not_before)?;
        let end = seconds(parsed.validity().not_after)?;
        let renew_at = SystemTime::UNIX_EPOCH + Duration::from_secs(begin + end.saturating_sub(begin) / 3 * 2);
        Some(Self { hosts: sorted(&hosts), renew_at })
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// Names in one spelling and order, so that two sets can be compared.
fn sorted(names: &[String]) -> Vec<String> {
    let canonical = |name: &String| name.parse::<IpAddr>().map_or_else(|_| name.clone(), |address| address.to_string());
    let mut sorted: Vec<String> = names.iter().map(canonical).collect();
    sorted.sort();
    sorted.dedup();
    sorted
}

fn chain(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().ok()?;
    (!chain.is_empty()).then_some(chain)
}

fn generate(cluster: &str) -> Result<ca::Authority, IdentityError> {
    ca::Authority::generate(&format!("causeway cluster {cluster}"), AUTHORITY_LIFE).map_err(IdentityError::Ca)
}

/// Makes a CA in a folder of its own and gives it its name in one step; if another replica was faster, its CA stays.
fn create(directory: &Path, folder: &Path, cluster: &str) -> Result<(), IdentityError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| IdentityError::Io { path, source }
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io(directory))?;
    let authority = generate(cluster)?;
    let draft = directory.join(format!(".ca-{}", random_name()));
    fs::DirBuilder::new().mode(0o700).create(&draft).map_err(io(&draft))?;
    write_private(&draft.join("ca.key"), authority.key.expose().as_bytes())?;
    write_private(&draft.join("ca.crt"), authority.certificate.as_bytes())?;
    match fs::rename(&draft, folder) {
        Ok(()) => tracing::info!(cluster, folder = %folder.display(), "made a CA for the cluster"),
        Err(_) if folder.join("ca.crt").exists() => {
            // The other replica's CA is in force; a draft that stays behind does no harm.
            let _ = fs::remove_dir_all(&draft);
        }
        Err(error) => return Err(io(folder)(error)),
    }
    Ok(())
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| IdentityError::Io { path: path.to_owned(), source })
}

/// Puts a finished file in another one's place.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    let draft = path.with_file_name(format!(".draft-{}", random_name()));
    write_private(&draft, bytes)?;
    fs::rename(&draft, path).map_err(|source| IdentityError::Io { path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<String, IdentityError> {
    fs::read_to_string(path).map_err(|source| IdentityError::Io { path: path.to_owned(), source })
}

fn random_name() -> String {
    let mut bytes = [0_u8; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system has randomness, or TLS would not work either");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const END: &str = "-----END CERTIFICATE-----";

fn split_pem(text: &str) -> Vec<String> {
    text.split_inclusive(END).filter(|part| part.contains(END)).map(|part| format!("{}\n", part.trim())).collect()
}

fn split_leaf(text: &str) -> Option<(String, Secret)> {
    let end = text.find(END)? + END.len();
    let (certificate, key) = text.split_at_checked(end)?;
    Some((format!("{}\n", certificate.trim()), Secret::new(key.trim_start())))
}

#[cfg(test)]
mod tests;
