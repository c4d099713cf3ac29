//! A small certificate authority (ECDSA P-256): makes a CA, signs leaves.
use std::time::Duration;

use crate::secret::Secret;

/// A CA: its certificate and key as PEM.
#[derive(Debug, Clone)]
pub struct Authority {
    /// Certificate, PEM.
    pub certificate: String,
    /// Private key, PKCS#8 PEM.
    pub key: Secret,
}

/// A leaf: its chain and key as PEM.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// Leaf, PEM.
    pub certificate: String,
    /// Private key, PKCS#8 PEM.
    pub key: Secret,
}

/// What a leaf is for.
#[derive(Debug, Clone)]
pub struct LeafRequest {
    /// Common name.
    pub name: String,
    /// DNS names and IP addresses.
    pub hosts: Vec<String>,
    /// URI subject alternative names (`causeway://factory-a`).
    pub uris: Vec<String>,
    /// Life.
    pub life: Duration,
    /// Usable by TLS clients too.
    pub client: bool,
}

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Key or certificate is not usable.
    #[error("certificate generation failed")]
    Generate(#[from] rcgen::Error),
}

impl Authority {
    /// Makes a new CA.
    pub fn generate(name: &str, life: Duration) -> Result<Self, CaError> {
        let _ = (name, life);
        todo!()
    }

    /// Signs a leaf.
    pub fn issue(&self, request: &LeafRequest) -> Result<Leaf, CaError> {
        let _ = request;
        todo!()
    }
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo, lower-case hex.
pub fn spki_sha256(certificate_pem: &str) -> Result<String, crate::tls::TlsError> {
    let _ = certificate_pem;
    todo!()
}
