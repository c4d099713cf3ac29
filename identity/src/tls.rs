//! TLS from files, reloaded on change: TLS 1.2 floor, one provider, ALPN always offered.
use std::{path::PathBuf, sync::Arc};

use daemon::{config::SecretRef, shutdown::Shutdown};
use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::CryptoProvider};
use serde::Deserialize;

/// The one crypto provider: aws-lc-rs, hybrid post-quantum key exchange first.
pub fn provider() -> Arc<CryptoProvider> {
    todo!()
}

/// `tls: { cert: …, key: { file: … }, client_ca: … }`.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerFiles {
    /// PEM chain, leaf first.
    pub cert: PathBuf,
    /// PEM private key.
    pub key: SecretRef,
    /// PEM CAs of client certificates; when set, a client certificate is verified if shown.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
}

/// `trust: { system: true, files: […] }`.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Trust {
    /// The system's roots.
    pub system: bool,
    /// PEM bundles beside them.
    pub files: Vec<PathBuf>,
}

impl Default for Trust {
    fn default() -> Self {
        Self { system: true, files: Vec::new() }
    }
}

/// What was wrong with which file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be used.
    #[error("{path}: {message}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

/// A server configuration that follows its files: `current()` per connection.
#[derive(Debug, Clone)]
pub struct ServerTls {}

impl ServerTls {
    /// Loads now (errors are final) and follows the files; a broken change keeps the last good one and logs.
    pub fn start(
        files: &ServerFiles,
        base: &std::path::Path,
        alpn: &[&[u8]],
        shutdown: &Shutdown,
    ) -> Result<Self, TlsError> {
        let _ = (files, base, alpn, shutdown);
        todo!()
    }

    /// From PEM text in memory.
    pub fn from_pem(cert: &str, key: &str, alpn: &[&[u8]]) -> Result<Self, TlsError> {
        let _ = (cert, key, alpn);
        todo!()
    }

    /// The configuration in force now.
    pub fn current(&self) -> Arc<ServerConfig> {
        todo!()
    }
}

/// Roots from the trust section.
pub fn roots(trust: &Trust, base: &std::path::Path) -> Result<RootCertStore, TlsError> {
    let _ = (trust, base);
    todo!()
}

/// Client configuration with these roots and ALPN; TLS 1.2 floor.
pub fn client(roots: RootCertStore, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let _ = (roots, alpn);
    todo!()
}
