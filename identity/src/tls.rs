//! TLS from files, reloaded on change: TLS 1.2 floor with AEAD and ECDHE only, one provider, ALPN always offered, no
//! 0-RTT, no key log (SD-17, SD-22). What a peer proves is read in [`peer`]; the identity of a cluster in [`cluster`].
//! A file that cannot be used is named; a change that cannot be used leaves the last good configuration in force.
pub mod cluster;
pub mod peer;
pub(crate) mod pem;
mod server;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use rustls::{ClientConfig, RootCertStore, crypto::CryptoProvider, pki_types::CertificateDer};
use serde::Deserialize;

pub use self::server::{Clients, ServerFiles, ServerTls};

/// The one crypto provider: aws-lc-rs, hybrid post-quantum key exchange first.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())).clone()
}

/// Makes [`provider`] the one that libraries find when they look for a process-wide default. Our own code passes it
/// explicitly; call this first in `main`. Calling it again does nothing.
pub fn install_provider() {
    if CryptoProvider::get_default().is_none() {
        // Losing a race means that another thread installed the same provider.
        let _lost_race = provider().as_ref().clone().install_default();
    }
}

/// `trust: { system: true, files: […] }`.
#[derive(Debug, Clone, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Trust {
    /// Trust the system's roots; default true.
    pub system: bool,
    /// PEM bundles trusted beside them; default none.
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
    #[error("{path}: {message}", path = path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// PEM text that did not come from a file cannot be used.
    #[error("{message}")]
    Pem {
        /// What is wrong with it.
        message: String,
    },
    /// Files cannot be watched for changes.
    #[error("certificate files cannot be watched")]
    Watch(#[source] std::io::Error),
    /// `system: true`, but the machine has no roots.
    #[error(
        "the system has no trusted root certificates: install ca-certificates, or set `system: false` and name files"
    )]
    NoSystemRoots,
    /// A trust file names no usable CA.
    #[error("trust for cluster {cluster}: {message}")]
    Cluster {
        /// Which cluster.
        cluster: String,
        /// What is wrong.
        message: String,
    },
}

impl TlsError {
    fn file(path: &Path, message: impl ToString) -> Self {
        Self::File { path: path.to_owned(), message: message.to_string() }
    }
}

/// Roots from the trust section. Relative paths are below `base`. `system: false` without files gives no roots at all,
/// and then no server verifies.
pub fn roots(trust: &Trust, base: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    if trust.system {
        let system = rustls_native_certs::load_native_certs();
        let (added, ignored) = store.add_parsable_certificates(system.certs);
        if ignored > 0 || !system.errors.is_empty() {
            tracing::debug!(added, ignored, errors = system.errors.len(), "some system roots were left out");
        }
        if added == 0 && trust.files.is_empty() {
            return Err(TlsError::NoSystemRoots);
        }
    }
    for file in &trust.files {
        let path = base.join(file);
        let bytes = std::fs::read(&path).map_err(|error| TlsError::file(&path, error))?;
        for der in pem::certificates(&bytes).map_err(|message| TlsError::file(&path, message))? {
            add_root(&mut store, der).map_err(|message| TlsError::file(&path, message))?;
        }
    }
    Ok(store)
}

fn add_root(store: &mut RootCertStore, der: CertificateDer<'_>) -> Result<(), String> {
    store.add(der).map_err(|error| format!("holds a certificate that cannot be trusted: {error}"))
}

/// Client configuration with these roots and ALPN; TLS 1.2 floor.
pub fn client(roots: RootCertStore, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols(alpn);
    Arc::new(config)
}

fn protocols(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|name| name.to_vec()).collect()
}

#[cfg(test)]
mod tests;
