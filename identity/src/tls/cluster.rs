//! The identity of a cluster (SD-1): a gateway proves itself with a leaf of its cluster's own CA that carries the URI
//! `causeway://<cluster>`. Host names play no part, and the public web PKI never vouches for a gateway.
//!
//! Two client configurations come of it: [`ClusterTrust::inner_client`] accepts nothing but the cluster, and
//! [`ClusterTrust::direct_client`] also ordinary roots for the host name; then the outer session has proven *nothing*
//! about the cluster. Ask [`ClusterTrust::proves`] with the peer's certificates which it was, after the handshake and
//! before a single byte of metadata.
use std::{fmt, io, sync::Arc, time::SystemTime};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
    version::{TLS12, TLS13},
};
use x509_parser::extensions::GeneralName;

use super::{TlsError, pem, protocols, provider};
use crate::secret::Secret;

/// What a cluster's owner says proves the cluster: its id, its CAs, and pins of CAs that are kept offline. Cheap to
/// clone.
#[derive(Clone)]
pub struct ClusterTrust {
    anchors: Arc<Anchors>,
}

struct Anchors {
    cluster: String,
    uri: String,
    roots: RootCertStore,
    backup_pins: Vec<String>,
}

/// Why a peer is not the cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The chain does not end at a CA of the cluster, or is not valid now.
    #[error("the peer's certificate is not one of cluster {cluster}: {reason}")]
    Chain {
        /// Which cluster was expected.
        cluster: String,
        /// What the verification said.
        reason: String,
    },
    /// The cluster's CA signed it, but for something else.
    #[error("the peer's certificate does not carry the name causeway://{cluster}")]
    Name {
        /// Which cluster was expected.
        cluster: String,
    },
}

/// A certificate and key that a connector shows in the inner session.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// PEM chain, leaf first.
    pub certificate: String,
    /// PEM private key.
    pub key: Secret,
}

impl ClusterTrust {
    /// From the parts of a trust file: cluster id, CA certificates (PEM, several during a rotation), and SPKI SHA-256
    /// pins of CAs that may appear in a chain without having been published.
    pub fn new<S: AsRef<str>>(cluster: &str, certificates: &[S], backup_pins: &[String]) -> Result<Self, TlsError> {
        let fault = |message: String| TlsError::Cluster { cluster: cluster.to_owned(), message };
        let mut roots = RootCertStore::empty();
        for text in certificates {
            for der in pem::certificates(text.as_ref().as_bytes()).map_err(fault)? {
                super::add_root(&mut roots, der).map_err(fault)?;
            }
        }
        if roots.is_empty() && backup_pins.is_empty() {
            return Err(fault("it names no CA certificate; export the trust file again".to_owned()));
        }
        if cluster.is_empty() {
            return Err(fault("the cluster id is empty".to_owned()));
        }
        let backup_pins = backup_pins.iter().map(|pin| pin.to_ascii_lowercase()).collect();
        let uri = format!("causeway://{cluster}");
        Ok(Self { anchors: Arc::new(Anchors { cluster: cluster.to_owned(), uri, roots, backup_pins }) })
    }

    /// Which cluster.
    pub fn cluster(&self) -> &str {
        &self.anchors.cluster
    }

    /// Whether these certificates, which the peer's finished handshake has shown to be its own, are the cluster's.
    pub fn proves(&self, chain: Option<&[CertificateDer<'_>]>, now: SystemTime) -> bool {
        let Some((leaf, rest)) = chain.and_then(|chain| chain.split_first()) else { return false };
        let Ok(since) = now.duration_since(SystemTime::UNIX_EPOCH) else { return false };
        self.anchors.check(leaf, rest, UnixTime::since_unix_epoch(since)).is_ok()
    }

    /// For the inner session: TLS 1.3 only, ALPN `causeway/1`, the cluster's identity and no other; no SNI (the relay
    /// would read it), no resumption, no 0-RTT. The certificate, if any, is shown to nobody but the proven gateway.
    pub fn inner_client(&self, certificate: Option<&ClientCertificate>) -> Result<Arc<ClientConfig>, TlsError> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has suites for TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { cluster: self.clone(), ordinary: None }));
        let mut config = match certificate {
            None => builder.with_no_client_auth(),
            Some(certificate) => {
                let fault = |message: String| TlsError::Pem { message: format!("the client certificate {message}") };
                let chain = pem::certificates(certificate.certificate.as_bytes()).map_err(fault)?;
                let key = pem::private_key(certificate.key.expose()).map_err(fault)?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| fault(format!("and its key cannot be used: {error}")))?
            }
        };
        config.alpn_protocols = vec![proto::tunnel::ALPN.to_vec()];
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// For the outer session in direct mode: the cluster's identity, or ordinary roots for the host name. No
    /// resumption, so every session says afresh which it was. Ask [`ClusterTrust::proves`].
    pub fn direct_client(&self, ordinary: RootCertStore, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        // Without roots there is no ordinary way to vouch, and the cluster alone counts.
        let ordinary = WebPkiServerVerifier::builder_with_provider(Arc::new(ordinary), provider()).build().ok();
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .expect("the provider has suites for TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { cluster: self.clone(), ordinary }))
            .with_no_client_auth();
        config.alpn_protocols = protocols(alpn);
        config.resumption = Resumption::disabled();
        Arc::new(config)
    }
}

/// The server name for an inner session: never sent, never compared, there because the API wants one.
pub fn inner_name() -> ServerName<'static> {
    ServerName::try_from("gateway.causeway.invalid").expect("it is a DNS name")
}

/// Whether a handshake failed because the peer is not who it should be, rather than because of the network. Such a
/// failure is counted and named, and never retried in a weaker form (SD-1).
pub fn is_identity_mismatch(error: &io::Error) -> bool {
    matches!(
        error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()),
        Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented)
    )
}

impl fmt::Debug for ClusterTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterTrust").field("cluster", &self.anchors.cluster).finish_non_exhaustive()
    }
}

impl Anchors {
    fn check(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Mismatch> {
        let chain = |reason: String| Mismatch::Chain { cluster: self.cluster.clone(), reason };
        let parsed = ParsedCertificate::try_from(leaf).map_err(|error| chain(error.to_string()))?;
        let provider = provider();
        let algorithms = provider.signature_verification_algorithms.all;
        let verify =
            |roots: &RootCertStore| verify_server_cert_signed_by_trust_anchor(&parsed, roots, rest, now, algorithms);
        verify(&self.roots)
            .or_else(|error| match self.pinned(rest) {
                Some(pinned) => verify(&pinned),
                None => Err(error),
            })
            .map_err(|error| chain(error.to_string()))?;
        if carries_uri(leaf, &self.uri) { Ok(()) } else { Err(Mismatch::Name { cluster: self.cluster.clone() }) }
    }

    /// CAs of the shown chain whose keys the cluster's owner pinned beforehand.
    fn pinned(&self, shown: &[CertificateDer<'_>]) -> Option<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for der in shown {
            if pem::spki_sha256(der).is_ok_and(|hash| self.backup_pins.contains(&hash)) {
                // A pinned certificate that cannot be an anchor changes nothing.
                let _unusable = roots.add(der.clone());
            }
        }
        (!roots.is_empty()).then_some(roots)
    }
}

fn carries_uri(leaf: &CertificateDer<'_>, wanted: &str) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(leaf) else { return false };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return false };
    names.value.general_names.iter().any(|name| matches!(name, GeneralName::URI(uri) if *uri == wanted))
}

/// Accepts the cluster's own identity and, in direct mode, an ordinary one for the host name.
struct Verifier {
    cluster: ClusterTrust,
    ordinary: Option<Arc<WebPkiServerVerifier>>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("cluster", &self.cluster).field("ordinary", &self.ordinary.is_some()).finish()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Err(mismatch) = self.cluster.anchors.check(leaf, rest, now) else {
            return Ok(ServerCertVerified::assertion());
        };
        match &self.ordinary {
            // A certificate in the cluster's name that fails the cluster's check deserves the cluster's reason.
            Some(ordinary) if !carries_uri(leaf, &self.cluster.anchors.uri) => {
                ordinary.verify_server_cert(leaf, rest, name, ocsp, now)
            }
            _ => Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(mismatch))))),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
