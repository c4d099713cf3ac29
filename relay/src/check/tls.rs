//! Who vouches for a relay: the configured roots decide, exactly as for every other connection; beside that the chain is
//! kept, so that it can be said who signed it, and whether public authorities would vouch for it as well.
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use identity::tls::provider;
use proto::hybrid::status::clean;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};

/// Longest name of a signer that is shown.
const SIGNER_SHOWN: usize = 100;

/// Verifies as the roots say, and keeps what it was shown.
#[derive(Debug)]
pub(super) struct Witness {
    roots: Arc<WebPkiServerVerifier>,
    seen: Mutex<Option<Seen>>,
}

/// A chain that a peer showed.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    chain: Vec<CertificateDer<'static>>,
    name: ServerName<'static>,
}

impl Witness {
    /// Nothing if the roots are none at all.
    pub(super) fn new(roots: RootCertStore) -> Option<Arc<Self>> {
        let roots = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build().ok()?;
        Some(Arc::new(Self { roots, seen: Mutex::default() }))
    }

    /// A client that this verifies for.
    pub(super) fn client(self: &Arc<Self>) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::<Self>::clone(self))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A resumed session shows no certificate.
        config.resumption = rustls::client::Resumption::disabled();
        Arc::new(config)
    }

    /// What the last peer showed, trusted or not.
    pub(super) fn seen(&self) -> Option<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = [leaf].into_iter().chain(rest).map(|certificate| certificate.clone().into_owned()).collect();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Seen { chain, name: name.to_owned() });
        self.roots.verify_server_cert(leaf, rest, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.roots.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.roots.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.roots.supported_verify_schemes()
    }
}

impl Seen {
    /// Who signed the topmost certificate that was shown: its issuer's common name, or its organisation.
    pub(super) fn signer(&self) -> String {
        let top = self.chain.last().and_then(|top| x509_parser::parse_x509_certificate(top).ok());
        let name = top.and_then(|(_, top)| {
            let issuer = top.issuer();
            let (mut common, mut organization) = (issuer.iter_common_name(), issuer.iter_organization());
            let named = common.next().or_else(|| organization.next())?;
            named.as_str().ok().map(|name| clean(name, SIGNER_SHOWN))
        });
        name.unwrap_or_else(|| "somebody without a name".to_owned())
    }

    /// Whether it is the certificate of an authority, which no client takes from a server: what `openssl req -x509` makes
    /// unless it is told otherwise.
    pub(super) fn is_authority(&self) -> bool {
        let leaf = self.chain.first().and_then(|leaf| x509_parser::parse_x509_certificate(leaf).ok());
        leaf.is_some_and(|(_, leaf)| leaf.is_ca())
    }

    /// Whether public authorities, as Mozilla lists them, vouch for it.
    pub(super) fn is_public(&self, now: SystemTime) -> bool {
        let public = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(public), provider()).build();
        let (Ok(verifier), Some((leaf, rest))) = (verifier, self.chain.split_first()) else { return false };
        let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        verifier.verify_server_cert(leaf, rest, &self.name, &[], now).is_ok()
    }
}
