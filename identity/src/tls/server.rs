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
    pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime},
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
    /// PEM revocation lists (CRLs), one of every CA in the chain of a client certificate, none of them past its next
    /// update: where one is missing or too old, the certificate is refused. Default: none is asked.
    #[serde(default)]
    pub client_crl: Option<PathBuf>,
}

/// Who vouches for clients, as PEM text.
#[derive(Debug, Clone, Copy)]
pub struct Clients<'a> {
    /// The CAs of client certificates.
    pub ca: &'a str,
    /// Revocation lists, one of every CA in a chain; `None` asks none.
    pub crl: Option<&'a str>,
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
    clients: Option<Arc<dyn ClientCertVerifier>>,
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

    /// From PEM text in memory, verifying client certificates if one is shown.
    pub fn from_pem_with_clients(
        cert: &str,
        key: &str,
        clients: Clients<'_>,
        alpn: &[&[u8]],
    ) -> Result<Self, TlsError> {
        let alpn: Arc<[Vec<u8>]> = protocols(alpn).into();
        let generation = generation_from_pem(cert, key, Some(clients), &alpn)?;
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

    /// Whether a client's chain, which an earlier handshake has shown to be its own, would be accepted now.
    pub fn vouches_for(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> bool {
        let (Some(clients), Some((leaf, rest))) = (&self.generation.load().clients, chain.split_first()) else {
            return false;
        };
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        clients.verify_client_cert(leaf, rest, UnixTime::since_unix_epoch(since)).is_ok()
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
    paths.extend(files.client_ca.iter().chain(&files.client_crl).map(|file| base.join(file)));
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
        None if files.client_crl.is_some() => {
            return Err(TlsError::file(&cert_path, "`client_crl` says nothing without `client_ca`"));
        }
        None => None,
        Some(ca) => {
            let path = base.join(ca);
            let cas = pem::certificates(&read(&path)?).map_err(|message| TlsError::file(&path, message))?;
            let (mut lists, mut blame) = (Vec::new(), path);
            if let Some(crl) = &files.client_crl {
                blame = base.join(crl);
                lists = pem::revocation_lists(&read(&blame)?).map_err(|message| TlsError::file(&blame, message))?;
            }
            Some(client_verifier(cas, lists).map_err(|message| TlsError::file(&blame, message))?)
        }
    };
    Ok(build(certified, clients, alpn))
}

fn generation_from_pem(
    cert: &str,
    key: &str,
    clients: Option<Clients<'_>>,
    alpn: &[Vec<u8>],
) -> Result<Generation, TlsError> {
    let fault = |what: &str, message: String| TlsError::Pem { message: format!("{what} {message}") };
    let chain = pem::certificates(cert.as_bytes()).map_err(|message| fault("the certificate", message))?;
    let certified = certify(chain, key).map_err(|problem| match problem {
        KeyProblem::Key(message) => fault("the private key", message),
        KeyProblem::Certificate(message) => fault("the certificate", message),
        KeyProblem::Mismatch => fault("the private key", "is not that of the certificate".to_owned()),
    })?;
    let clients = match clients {
        None => None,
        Some(clients) => {
            let cas = pem::certificates(clients.ca.as_bytes()).map_err(|message| fault("the client CA", message))?;
            let lists = match clients.crl {
                Some(crl) => pem::revocation_lists(crl.as_bytes())
                    .map_err(|message| fault("the revocation list of client certificates", message))?,
                None => Vec::new(),
            };
            let verifier = client_verifier(cas, lists);
            Some(verifier.map_err(|message| fault("the client CA or its revocation list", message))?)
        }
    };
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

fn client_verifier(
    cas: Vec<CertificateDer<'static>>,
    lists: Vec<CertificateRevocationListDer<'static>>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for ca in cas {
        add_root(&mut roots, ca)?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .with_crls(lists)
        // An old list says nothing of who was revoked since.
        .enforce_revocation_expiration()
        .build()
        .map_err(|error| format!("cannot verify client certificates: {error}"))
}

fn build(certified: CertifiedKey, clients: Option<Arc<dyn ClientCertVerifier>>, alpn: &[Vec<u8>]) -> Generation {
    let verifier = clients.clone().unwrap_or_else(WebPkiClientVerifier::no_client_auth);
    let leaf = certified.cert[0].clone();
    let resolver = Arc::new(SingleCertAndKey::from(certified));
    let config = |versions: &[&'static rustls::SupportedProtocolVersion]| {
        ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("the provider has suites for TLS 1.2 and 1.3")
            .with_client_cert_verifier(verifier.clone())
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
    Generation { outer: Arc::new(outer), inner: Arc::new(inner), leaf, clients }
}
