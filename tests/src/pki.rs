//! The certificate authority of one test, and what it signs.
use std::{net::IpAddr, path::Path, sync::Arc, time::Duration};

use identity::{
    ca::{Authority, Leaf, LeafRequest},
    secret::Secret,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// Longer than any test, shorter than anything that would be worth stealing.
const LIFE: Duration = Duration::from_secs(24 * 3600);

/// A private CA.
#[derive(Debug, Clone)]
pub struct Pki {
    authority: Authority,
}

impl Pki {
    /// Makes a new CA.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new() -> Self {
        Self { authority: Authority::generate("causeway test CA", LIFE).expect("a CA can be made") }
    }

    /// The CA's certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.authority.certificate
    }

    /// A server certificate for `localhost` and these addresses.
    ///
    /// # Panics
    /// When it cannot be signed.
    pub fn server(&self, addresses: &[IpAddr]) -> Leaf {
        let addresses: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
        self.server_named(&addresses.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// A server certificate for `localhost` and these names.
    ///
    /// # Panics
    /// When it cannot be signed.
    pub fn server_named(&self, names: &[&str]) -> Leaf {
        let hosts = ["localhost"].iter().chain(names).map(|name| (*name).to_owned()).collect();
        let request =
            LeafRequest { name: "causeway test server".to_owned(), hosts, uris: Vec::new(), life: LIFE, client: false };
        self.authority.issue(&request).expect("the test CA can sign")
    }

    /// Any leaf.
    ///
    /// # Panics
    /// When it cannot be signed.
    pub fn leaf(&self, request: &LeafRequest) -> Leaf {
        self.authority.issue(request).expect("the test CA can sign")
    }

    /// The CA's own key.
    pub fn key(&self) -> &Secret {
        &self.authority.key
    }

    /// Writes `tls.crt` and `tls.key` for these addresses.
    pub fn write_server(&self, folder: &Path, addresses: &[IpAddr]) {
        write_leaf(folder, &self.server(addresses));
    }

    /// Writes `tls.crt` and `tls.key` for these names.
    pub fn write_server_named(&self, folder: &Path, names: &[&str]) {
        write_leaf(folder, &self.server_named(names));
    }

    /// A TLS server for in-process peers.
    ///
    /// # Panics
    /// When the certificate does not work.
    pub fn acceptor(&self, address: IpAddr) -> tokio_rustls::TlsAcceptor {
        let leaf = self.server(&[address]);
        let chain = certificates(&leaf.certificate);
        let key = PrivateKeyDer::from_pem_slice(leaf.key.expose().as_bytes()).expect("the leaf's key is PEM");
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("the leaf fits its key");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config).into()
    }

    /// A TLS client that trusts this CA alone.
    pub fn connector(&self, alpn: &[&[u8]]) -> tokio_rustls::TlsConnector {
        connector(self.certificate(), alpn)
    }
}

impl Default for Pki {
    fn default() -> Self {
        Self::new()
    }
}

/// A TLS client that trusts these CAs alone.
///
/// # Panics
/// When a certificate does not work.
pub fn connector(roots_pem: &str, alpn: &[&[u8]]) -> tokio_rustls::TlsConnector {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(roots_pem) {
        roots.add(certificate).expect("the CA is a root");
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config).into()
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().expect("certificates are PEM")
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn write_leaf(folder: &Path, leaf: &Leaf) {
    write(&folder.join("tls.crt"), &leaf.certificate);
    write(&folder.join("tls.key"), leaf.key.expose());
}

/// Writes a file that only its owner reads, as secrets must be.
///
/// # Panics
/// When it cannot be written.
pub fn write(path: &Path, text: &str) {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).expect("a folder can be made in the test's own");
    }
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
