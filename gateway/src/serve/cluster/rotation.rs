//! Rotation of the cluster's CA (SD-1). The next CA is published beside the one that signs, in trust files and in
//! `Describe`, and begins to sign when everybody who follows has had [`OVERLAP`] to adopt it. What was signed before stays
//! trusted until the owner retires the old CA.
//!
//! Nothing but renaming finished files changes anything, in an order in which every state between is whole: the
//! certificate of the next CA goes to the front of `ca.crt`, then its key takes the place of `ca.key`, then `next.pem`
//! goes. Whoever reads in between takes the key that fits the first certificate; replicas that do it at once do the same.
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use identity::{ca, secret::Secret};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Authority, IdentityError, generate, random_name, read, replace, split_leaf, write_private};
use crate::trust::CAS_MAX;

/// How long a CA is published before it signs (SD-1): longer than anybody who follows stays away.
pub const OVERLAP: Duration = Duration::from_secs(30 * 24 * 3600);

/// The first line of `next.pem`, before the time.
const SIGNS_FROM: &str = "signs from ";

/// The CA that will sign.
#[derive(Debug, Clone)]
pub(super) struct Next {
    pub(super) ca: ca::Authority,
    pub(super) signs_from: SystemTime,
}

/// Why a CA cannot be rotated, retired or backed up.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The files cannot be read or written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// One CA at a time.
    #[error(
        "a rotation has begun already: the next CA signs from {signs_from}; wait for it, or let it sign at once with \
         --dangerous-now"
    )]
    Begun {
        /// RFC 3339.
        signs_from: String,
    },
    /// Connectors adopt no more CAs than this.
    #[error("there are {CAS_MAX} CAs already: retire those that sign no more with `gateway trust retire`")]
    Many,
    /// What is to sign is no CA with its key.
    #[error("{}: holds no CA certificate and its key (PEM), as `gateway trust backup` writes them", path.display())]
    Given {
        /// Which file.
        path: PathBuf,
    },
}

impl Next {
    fn path(folder: &Path) -> PathBuf {
        folder.join("next.pem")
    }

    pub(super) fn read(folder: &Path) -> Result<Option<Self>, IdentityError> {
        let path = Self::path(folder);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::Io { path, source }),
        };
        let parsed = Self::parse(&text);
        parsed.map(Some).map_err(|message| IdentityError::Next { path, message: message.to_owned() })
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let (first, rest) = text.split_once('\n').unwrap_or_default();
        let at = first.strip_prefix(SIGNS_FROM).and_then(|at| OffsetDateTime::parse(at.trim(), &Rfc3339).ok());
        let signs_from = at.ok_or("its first line is `signs from <RFC 3339>`")?.into();
        let ca = whole(rest).ok_or("it holds a CA certificate and its key (PEM) after the first line")?;
        Ok(Self { ca, signs_from })
    }

    fn write(&self, path: &Path) -> Result<(), IdentityError> {
        let (at, ca) = (rfc3339(self.signs_from), pem(&self.ca));
        write_private(path, format!("{SIGNS_FROM}{at}\n{ca}").as_bytes())
    }
}

impl Authority {
    /// Publishes a CA that signs after [`OVERLAP`]: a new one, or the one in a file. Says from when on.
    ///
    /// # Errors
    /// When a rotation has begun already, or the files do not allow it.
    pub fn rotate(&self, given: Option<&Path>, now: SystemTime) -> Result<SystemTime, RotateError> {
        if let Some(next) = &self.next {
            return Err(RotateError::Begun { signs_from: rfc3339(next.signs_from) });
        }
        if self.certificates.len() >= CAS_MAX {
            return Err(RotateError::Many);
        }
        let ca = match given {
            Some(path) => {
                let ca = whole(&read(path)?).filter(|ca| self.issue(ca, &[], now).is_ok());
                ca.ok_or_else(|| RotateError::Given { path: path.to_owned() })?
            }
            None => generate(&self.cluster)?,
        };
        let next = Next { ca, signs_from: now + OVERLAP };
        // A name that only one of several can take.
        let (draft, path) = (self.folder().join(format!(".next-{}", random_name())), Next::path(&self.folder()));
        next.write(&draft)?;
        let linked = fs::hard_link(&draft, &path);
        // A draft that stays behind does no harm.
        let _ = fs::remove_file(&draft);
        linked.map_err(|source| IdentityError::Io { path, source })?;
        Ok(next.signs_from)
    }

    /// Lets the next CA sign, whether its time has come or not. Without one, nothing changes.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn promote(&self) -> Result<(), IdentityError> {
        let (Some(next), folder) = (&self.next, self.folder()) else { return Ok(()) };
        let certificate = &next.ca.certificate;
        let others = self.certificates.iter().filter(|old| *old != certificate);
        let certificates: Vec<_> = std::iter::once(certificate).chain(others).map(String::as_str).collect();
        replace(&folder.join("ca.crt"), certificates.concat().as_bytes())?;
        replace(&folder.join("ca.key"), next.ca.key.expose().as_bytes())?;
        match fs::remove_file(Next::path(&folder)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(IdentityError::Io { path: Next::path(&folder), source })
            }
            _ => Ok(()),
        }
    }

    /// Lets the next CA sign if its time has come; says whether it did.
    pub(super) fn promote_if_due(&self, now: SystemTime) -> Result<bool, IdentityError> {
        let due = self.next.as_ref().is_some_and(|next| next.signs_from <= now);
        if due {
            self.promote()?;
        }
        Ok(due)
    }

    /// From when on the next CA signs, if there is one.
    pub fn next_signs(&self) -> Option<SystemTime> {
        self.next.as_ref().map(|next| next.signs_from)
    }

    /// Publishes no CA any more but the one that signs and the one that will. Gives how many are gone.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn retire(&self) -> Result<usize, IdentityError> {
        replace(&self.folder().join("ca.crt"), self.signing().as_bytes())?;
        Ok(self.certificates.len().saturating_sub(1))
    }

    /// Makes a CA to be kept away from the cluster, writes it to `path`, and pins it in the trust files that are exported
    /// from now on.
    ///
    /// # Errors
    /// When a file is there already or cannot be written.
    pub fn back_up(&self, path: &Path) -> Result<(), IdentityError> {
        let ca = generate(&self.cluster)?;
        write_private(path, pem(&ca).as_bytes())?;
        let mut pins = self.backup_pins.clone();
        pins.push(ca::spki_sha256(&ca.certificate).map_err(IdentityError::Tls)?);
        replace(&self.folder().join("backup-pins"), (pins.join("\n") + "\n").as_bytes())
    }
}

/// The key of the certificate that signs. During a promotion it may still lie beside its certificate.
pub(super) fn key(signing: Option<&String>, key: Secret, next: Option<&Next>) -> Secret {
    match next {
        Some(next) if signing == Some(&next.ca.certificate) => next.ca.key.clone(),
        _ => key,
    }
}

/// The pins of CAs that are kept elsewhere.
pub(super) fn backup_pins(folder: &Path) -> Result<Vec<String>, IdentityError> {
    let path = folder.join("backup-pins");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.split_whitespace().map(ToOwned::to_owned).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(IdentityError::Io { path, source }),
    }
}

/// A CA whose key is its own.
fn whole(text: &str) -> Option<ca::Authority> {
    let (certificate, key) = split_leaf(text.get(text.find("-----BEGIN")?..)?)?;
    let ca = ca::Authority { certificate, key };
    ca.is_whole().then_some(ca)
}

fn pem(ca: &ca::Authority) -> String {
    format!("{}\n{}", ca.certificate.trim_end(), ca.key.expose())
}

fn rfc3339(at: SystemTime) -> String {
    daemon::clock::timestamp(at)
}

#[cfg(test)]
mod tests;
