//! The server side: one certificate from files, followed when they change. Every load makes a whole new generation with
//! its own ticket keys, so a reload forgets all tickets; connections that are open keep what they were opened with.
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use arc_swap::ArcSwap;
use daemon::{config::SecretRef, shutdown::Shutdown};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::CertificateDer,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use serde::Deserialize;

use super::{TlsError, add_root, pem, protocols, provider};
use crate::secret::Secret;

/// `tls: { cert: …, key: { file: … }, client_ca: … }`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerFiles {
    /// PEM chain, leaf first.
    pub cert: PathBuf,
    /// PEM private key.
    pub key: SecretRef,
    /// PEM CAs of client certificates; when set, a client certificate is verified if shown. Default: none is asked for.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
}

/// A server configuration that follows its files: `current()` per connection. Cheap to clone.
#[derive(Clone)]
pub struct ServerTls {
    generation: Arc<ArcSwap<Generation>>,
    alpn: Arc<[Vec<u8>]>,
}

/// All that one reading of the files gave.
struct Generation {
    outer: Arc<ServerConfig>,
    inner: Arc<ServerConfig>,
    leaf: CertificateDer<'static>,
}

impl ServerTls {
    /// Loads now (errors are final) and follows the files; a broken change keeps the last good one and logs.
    pub fn start(files: &ServerFiles, base: &Path, alpn: &[&[u8]], shutdown: &Shutdown) -> Result<Self, TlsError> {
        let alpn: Arc<[Vec<u8>]> = protocols(alpn).into();
        // Watching begins before the first read, so that no change can fall between the two.
        let mut changes = daemon::watch::files(watched(files, base)).map_err(TlsError::Watch)?;
        changes.mark_unchanged();
        let this = Self { generation: Arc::new(ArcSwap::from_pointee(load(files, base, &alpn)?)), alpn };
        let (follower, files, base, stop) = (this.clone(), files.clone(), base.to_owned(), shutdown.clone());
        shutdown.spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = stop.draining() => return,
                    changed = changes.changed() => if changed.is_err() { return },
                }
                changes.mark_unchanged();
                match load(&files, &base, &follower.alpn) {
                    Ok(generation) => {
                        follower.generation.store(Arc::new(generation));
                        tracing::info!(certificate = %base.join(&files.cert).display(), "TLS certificate reloaded");
                    }
                    Err(error) => tracing::error!(%error, "changed TLS files are not usable; the last good ones stay"),
                }
            }
        });
        Ok(this)
    }

    /// From PEM text in memory.
    pub fn from_pem(cert: &str, key: &str, alpn: &[&[u8]]) -> Result<Self, TlsError> {
        let alpn: Arc<[Vec<u8>]> = protocols(alpn).into();
        let generation = generation_from_pem(cert, key, None, &alpn)?;
        Ok(Self { generation: Arc::new(ArcSwap::from_pointee(generation)), alpn })
    }

    /// From PEM text in memory, verifying client certificates against these CAs if one is shown.
    pub fn from_pem_with_clients(cert: &str, key: &str, client_ca: &str, alpn: &[&[u8]]) -> Result<Self, TlsError> {
        let alpn: Arc<[Vec<u8>]> = protocols(alpn).into();
        let generation = generation_from_pem(cert, key, Some(client_ca), &alpn)?;
        Ok(Self { generation: Arc::new(ArcSwap::from_pointee(generation)), alpn })
    }

    /// The configuration in force now.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.generation.load().outer.clone()
    }

    /// The same certificate for an inner session (SD-1): TLS 1.3 only, ALPN `causeway/1` only, neither tickets nor
    /// 0-RTT.
    pub fn inner(&self) -> Arc<ServerConfig> {
        self.generation.load().inner.clone()
    }

    /// When the certificate in force ends.
    pub fn expires(&self) -> SystemTime {
        let generation = self.generation.load();
        x509_parser::parse_x509_certificate(&generation.leaf)
            .map_or(SystemTime::UNIX_EPOCH, |(_, parsed)| super::peer::not_after(&parsed))
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("expires", &self.expires()).finish_non_exhaustive()
    }
}

fn watched(files: &ServerFiles, base: &Path) -> Vec<PathBuf> {
    let mut paths = vec![base.join(&files.cert)];
    paths.extend(files.key.path(base));
    paths.extend(files.client_ca.iter().map(|ca| base.join(ca)));
    paths
}

fn load(files: &ServerFiles, base: &Path, alpn: &[Vec<u8>]) -> Result<Generation, TlsError> {
    let read = |path: &Path| std::fs::read(path).map_err(|error| TlsError::file(path, error));
    let cert_path = base.join(&files.cert);
    let key_path = files.key.path(base).unwrap_or_else(|| PathBuf::from(files.key.to_string()));
    let chain = pem::certificates(&read(&cert_path)?).map_err(|message| TlsError::file(&cert_path, message))?;
    let key = Secret::from(files.key.read(base).map_err(|error| TlsError::file(&key_path, error))?);
    let certified = certify(chain, key.expose()).map_err(|problem| match problem {
        KeyProblem::Key(message) => TlsError::file(&key_path, message),
        KeyProblem::Certificate(message) => TlsError::file(&cert_path, message),
        KeyProblem::Mismatch => {
            TlsError::file(&key_path, format!("is not the private key of the certificate in {}", cert_path.display()))
        }
    })?;
    let clients = match &files.client_ca {
        None => None,
        Some(ca) => {
            let path = base.join(ca);
            let cas = pem::certificates(&read(&path)?).map_err(|message| TlsError::file(&path, message))?;
            Some(client_verifier(cas).map_err(|message| TlsError::file(&path, message))?)
        }
    };
    Ok(build(certified, clients, alpn))
}

fn generation_from_pem(
    cert: &str,
    key: &str,
    client_ca: Option<&str>,
    alpn: &[Vec<u8>],
) -> Result<Generation, TlsError> {
    let fault = |what: &str, message: String| TlsError::Pem { message: format!("{what} {message}") };
    let chain = pem::certificates(cert.as_bytes()).map_err(|message| fault("the certificate", message))?;
    let certified = certify(chain, key).map_err(|problem| match problem {
        KeyProblem::Key(message) => fault("the private key", message),
        KeyProblem::Certificate(message) => fault("the certificate", message),
        KeyProblem::Mismatch => fault("the private key", "is not that of the certificate".to_owned()),
    })?;
    let clients = client_ca
        .map(|ca| pem::certificates(ca.as_bytes()).and_then(client_verifier))
        .transpose()
        .map_err(|message| fault("the client CA", message))?;
    Ok(build(certified, clients, alpn))
}

enum KeyProblem {
    Key(String),
    Certificate(String),
    Mismatch,
}

fn certify(chain: Vec<CertificateDer<'static>>, key: &str) -> Result<CertifiedKey, KeyProblem> {
    let key = pem::private_key(key).map_err(KeyProblem::Key)?;
    let key = provider()
        .key_provider
        .load_private_key(key)
        .map_err(|_| KeyProblem::Key("holds a private key of a kind that cannot be used".to_owned()))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(KeyProblem::Mismatch),
        Err(error) => Err(KeyProblem::Certificate(format!("cannot be used: {error}"))),
    }
}

fn client_verifier(cas: Vec<CertificateDer<'static>>) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for ca in cas {
        add_root(&mut roots, ca)?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| format!("cannot verify client certificates: {error}"))
}

fn build(certified: CertifiedKey, clients: Option<Arc<dyn ClientCertVerifier>>, alpn: &[Vec<u8>]) -> Generation {
    let clients = clients.unwrap_or_else(WebPkiClientVerifier::no_client_auth);
    let leaf = certified.cert[0].clone();
    let resolver = Arc::new(SingleCertAndKey::from(certified));
    let config = |versions: &[&'static rustls::SupportedProtocolVersion]| {
        ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("the provider has suites for TLS 1.2 and 1.3")
            .with_client_cert_verifier(clients.clone())
            .with_cert_resolver(resolver.clone())
    };
    let mut outer = config(&[&TLS13, &TLS12]);
    outer.alpn_protocols = alpn.to_vec();
    // Keys of this generation alone: what was trusted then may not be trusted now.
    match rustls::crypto::aws_lc_rs::Ticketer::new() {
        Ok(ticketer) => outer.ticketer = ticketer,
        Err(error) => tracing::warn!(%error, "no session tickets: every handshake is a full one"),
    }
    let mut inner = config(&[&TLS13]);
    inner.alpn_protocols = vec![proto::tunnel::ALPN.to_vec()];
    inner.session_storage = Arc::new(NoServerSessionStorage {});
    inner.send_tls13_tickets = 0;
    Generation { outer: Arc::new(outer), inner: Arc::new(inner), leaf }
}
