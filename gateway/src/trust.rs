//! The trust file: the public half of a cluster's identity, carried by its owner to the connector (SD-1).
//!
//! `gateway trust export` writes it, the connector reads it. Its pins repeat what its certificates hold, so that a file
//! that was edited or cut in half is noticed before anything is trusted. It holds no secret; what matters is that it
//! arrives unchanged, which the compare line lets two people check over another channel.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use identity::tls::{TlsError, cluster::ClusterTrust};
use serde::{Deserialize, Serialize};

use crate::serve::cluster::{self, IdentityError};

/// Most CAs of one cluster that are published and followed: the one that signs, the next one, and some from before.
pub const CAS_MAX: usize = 8;

/// Longest CA certificate that is adopted, PEM: ten times what ours have.
const CA_MAX: usize = 8 * 1024;

/// Largest trust file read: some CAs and their pins, nothing else.
const FILE_MAX: u64 = 256 * 1024;

/// `factory-a.trust.yaml`, written by `gateway trust export`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustFile {
    /// Cluster id; the gateway's leaf must carry the URI `causeway://<cluster>`.
    pub cluster: String,
    /// CA certificates, PEM; several during a rotation.
    pub certificates: Vec<String>,
    /// SHA-256 of each CA's SubjectPublicKeyInfo, lower-case hex, in the same order.
    pub spki_sha256: Vec<String>,
    /// SPKI SHA-256 of a CA kept offline, accepted when it appears.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backup_pins: Vec<String>,
}

/// Why a trust file cannot be used or made.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// It cannot be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is not YAML of this shape.
    #[error("not a trust file: {message}")]
    Parse {
        /// What is wrong, and where.
        message: String,
    },
    /// It has no certificate, or one that cannot be used.
    #[error("the trust file's certificates cannot be used")]
    Certificates(#[source] TlsError),
    /// A pin is not that of its certificate.
    #[error("the pin of certificate {index} is not that of its key: the trust file was changed; export it again")]
    Pin {
        /// Which certificate, from 1.
        index: usize,
    },
    /// A backup pin is not a SHA-256.
    #[error("a backup pin is 64 hexadecimal digits, lower case: {pin}")]
    BackupPin {
        /// The text.
        pin: String,
    },
    /// A gateway names more CAs than there may be.
    #[error(
        "more than {CAS_MAX} CAs: ask the cluster owner to retire old ones (`gateway trust retire`) and for a new file"
    )]
    Many,
    /// The identity directory cannot be used.
    #[error("the cluster's identity cannot be exported")]
    Identity(#[source] IdentityError),
}

impl TrustFile {
    /// Reads and checks a trust file.
    ///
    /// # Errors
    /// When it cannot be read, has another shape, or its pins are not those of its certificates.
    pub fn read(path: &Path) -> Result<Self, TrustError> {
        let read = |source| TrustError::Read { path: path.to_owned(), source };
        if fs::metadata(path).map_err(read)?.len() > FILE_MAX {
            return Err(TrustError::Parse { message: format!("larger than {FILE_MAX} bytes") });
        }
        Self::parse(&fs::read_to_string(path).map_err(read)?)
    }

    /// Parses and checks the text of a trust file.
    ///
    /// # Errors
    /// As [`TrustFile::read`].
    pub fn parse(text: &str) -> Result<Self, TrustError> {
        let file: Self =
            serde_saphyr::from_str(text).map_err(|error| TrustError::Parse { message: error.to_string() })?;
        file.check()?;
        Ok(file)
    }

    /// Makes the trust file of a cluster from its CA certificates (PEM, the signing one first).
    ///
    /// # Errors
    /// When a certificate cannot be used.
    pub fn new(cluster: &str, certificates: Vec<String>) -> Result<Self, TrustError> {
        let spki_sha256 = certificates
            .iter()
            .map(|pem| identity::ca::spki_sha256(pem))
            .collect::<Result<_, _>>()
            .map_err(TrustError::Certificates)?;
        let file = Self { cluster: cluster.to_owned(), certificates, spki_sha256, backup_pins: Vec::new() };
        file.check()?;
        Ok(file)
    }

    /// Checks that the pins are those of the certificates, and that there is something to trust.
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub fn check(&self) -> Result<(), TrustError> {
        let count = self.certificates.len().max(self.spki_sha256.len());
        for index in 0..count {
            let (Some(certificate), Some(pin)) = (self.certificates.get(index), self.spki_sha256.get(index)) else {
                return Err(TrustError::Pin { index: index + 1 });
            };
            if identity::ca::spki_sha256(certificate).map_err(TrustError::Certificates)? != *pin {
                return Err(TrustError::Pin { index: index + 1 });
            }
        }
        for pin in &self.backup_pins {
            if pin.len() != 64 || !pin.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
                return Err(TrustError::BackupPin { pin: pin.chars().take(80).collect() });
            }
        }
        self.proof().map(|_| ())
    }

    /// What verifies a gateway of this cluster.
    ///
    /// # Errors
    /// When the certificates cannot be used.
    pub fn proof(&self) -> Result<ClusterTrust, TrustError> {
        ClusterTrust::new(&self.cluster, &self.certificates, &self.backup_pins).map_err(TrustError::Certificates)
    }

    /// Adds the CAs that a gateway which was proven by this file says it will use; says how many are new. What cannot be
    /// a CA is passed over: whoever sent it has proven to be the gateway, and can still be mistaken.
    ///
    /// # Errors
    /// When there would be more than [`CAS_MAX`].
    pub fn adopt(&mut self, anchors: &[String]) -> Result<usize, TrustError> {
        let mut added = 0;
        for pem in anchors.iter().take(CAS_MAX) {
            let Ok(pin) = identity::ca::spki_sha256(pem) else { continue };
            let usable = pem.len() <= CA_MAX && ClusterTrust::new(&self.cluster, &[pem], &[]).is_ok();
            if !usable || self.spki_sha256.contains(&pin) {
                continue;
            }
            if self.certificates.len() >= CAS_MAX {
                return Err(TrustError::Many);
            }
            self.certificates.push(pem.clone());
            self.spki_sha256.push(pin);
            added += 1;
        }
        self.check()?;
        Ok(added)
    }

    /// The file's text.
    ///
    /// # Errors
    /// When it cannot be written as YAML.
    pub fn to_yaml(&self) -> Result<String, TrustError> {
        serde_saphyr::to_string(self).map_err(|error| TrustError::Parse { message: error.to_string() })
    }

    /// Each CA's pin in groups of four digits, to be read aloud.
    pub fn fingerprints(&self) -> Vec<String> {
        self.spki_sha256.iter().map(|pin| grouped(pin)).collect()
    }
}

fn grouped(hex: &str) -> String {
    let digits: Vec<char> = hex.chars().collect();
    digits.chunks(4).map(|group| group.iter().collect::<String>()).collect::<Vec<_>>().join(" ")
}

/// The text of the trust file of the cluster whose identity lies in `directory` (made there if absent).
///
/// # Errors
/// When the identity cannot be read or made.
pub fn export(directory: &Path, cluster: &str) -> Result<String, TrustError> {
    let authority = cluster::Authority::open(directory, cluster).map_err(TrustError::Identity)?;
    authority.trust_file()?.to_yaml()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> TrustFile {
        let year = std::time::Duration::from_secs(365 * 24 * 3600);
        let authority = identity::ca::Authority::generate("test", year).unwrap();
        TrustFile::new("factory-a", vec![authority.certificate]).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let file = file();
        assert_eq!(TrustFile::parse(&file.to_yaml().unwrap()).unwrap(), file);
    }

    #[test]
    fn a_pin_that_is_not_the_certificates_is_refused() {
        let mut file = file();
        file.spki_sha256 = vec!["0".repeat(64)];
        assert!(matches!(TrustFile::parse(&file.to_yaml().unwrap()), Err(TrustError::Pin { index: 1 })));
        file.spki_sha256.clear();
        assert!(matches!(file.check(), Err(TrustError::Pin { index: 1 })));
    }

    #[test]
    fn new_cas_are_adopted_once_and_nothing_else_is() {
        let (mut one, other) = (file(), file().certificates.remove(0));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();
        let long = format!("{}{other}", " ".repeat(CA_MAX));
        for strange in [String::new(), "no PEM".to_owned(), broken, long] {
            assert_eq!(one.adopt(&[strange]).unwrap(), 0);
        }
        assert_eq!(one.adopt(&[one.certificates[0].clone(), other.clone(), other.clone()]).unwrap(), 1);
        assert_eq!(one.adopt(&[other]).unwrap(), 0);
        assert_eq!(TrustFile::parse(&one.to_yaml().unwrap()).unwrap(), one);
        for _ in 2..CAS_MAX {
            assert_eq!(one.adopt(&file().certificates).unwrap(), 1);
        }
        assert!(matches!(one.adopt(&file().certificates), Err(TrustError::Many)));
    }

    #[test]
    fn nothing_to_trust_and_unknown_keys_are_refused() {
        assert!(TrustFile::parse("cluster: a\ncertificates: []\nspki_sha256: []\n").is_err());
        assert!(TrustFile::parse("cluster: a\ncertificates: []\nspki_sha256: []\nmore: 1\n").is_err());
        let mut file = file();
        file.backup_pins = vec!["AB".to_owned()];
        assert!(matches!(file.check(), Err(TrustError::BackupPin { .. })));
    }

    #[test]
    fn fingerprints_are_grouped_for_reading_aloud() {
        let fingerprint = &file().fingerprints()[0];
        assert_eq!(fingerprint.len(), 64 + 15);
        assert!(fingerprint.split(' ').all(|group| group.len() == 4));
    }
}
