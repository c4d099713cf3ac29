//! Proof of the gateway's identity (SD-1): the trust file turned into TLS configurations, and the session in which the
//! peer proves itself. A peer that cannot is told nothing; there is no weaker form.
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use identity::tls::{
    TlsError,
    cluster::{ClusterTrust, inner_name, is_identity_mismatch},
};
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::error::{Stage, WayCode, WayError};
use crate::trust::{TrustError, TrustFile};

/// Why a trust file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// It cannot be read, or is damaged.
    #[error("{}: cannot be used", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: TrustError,
    },
    /// It speaks of another cluster.
    #[error("{}: this is the trust file of cluster `{found}`, not of `{expected}`", path.display())]
    OtherCluster {
        /// Which file.
        path: PathBuf,
        /// Whose file it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// Its certificates make no TLS configuration.
    #[error("the trust file's certificates cannot be used")]
    Tls(#[source] TlsError),
}

/// What proves a cluster, read from its trust file.
#[derive(Debug, Clone)]
pub(crate) struct Proof {
    trust: ClusterTrust,
    /// Each CA alone, with its fingerprint, to tell which one vouched.
    single: Vec<(String, ClusterTrust)>,
}

impl Proof {
    /// Reads a trust file. Called for every new tunnel, so that a changed file needs no restart.
    pub(crate) fn read(path: &Path, cluster: &str) -> Result<Self, ProofError> {
        let unusable = |source| ProofError::File { path: path.to_owned(), source };
        let file = TrustFile::read(path).map_err(unusable)?;
        let trust = file.proof().map_err(unusable)?;
        if file.cluster != cluster {
            let (found, expected) = (file.cluster, cluster.to_owned());
            return Err(ProofError::OtherCluster { path: path.to_owned(), found, expected });
        }
        let single = file
            .certificates
            .iter()
            .zip(&file.spki_sha256)
            .map(|(certificate, fingerprint)| {
                Ok((fingerprint.clone(), ClusterTrust::new(cluster, &[certificate], &[]).map_err(ProofError::Tls)?))
            })
            .collect::<Result<_, ProofError>>()?;
        Ok(Self { trust, single })
    }

    /// TLS for the outer session of a direct way: the cluster's identity, or ordinary roots.
    pub(crate) fn outer(&self, ordinary: RootCertStore) -> Arc<ClientConfig> {
        self.trust.direct_client(ordinary, &[b"http/1.1"])
    }

    /// Whether a finished session showed the cluster's own certificate.
    pub(crate) fn proves(&self, chain: Option<&[CertificateDer<'_>]>, now: SystemTime) -> bool {
        self.trust.proves(chain, now)
    }

    /// SHA-256 of the key of the CA that vouched for this chain, or of a backup pin's.
    pub(crate) fn fingerprint(&self, chain: Option<&[CertificateDer<'_>]>, now: SystemTime) -> String {
        let vouched = self.single.iter().find(|(_, trust)| trust.proves(chain, now));
        vouched.map_or_else(|| "backup pin".to_owned(), |(fingerprint, _)| fingerprint.clone())
    }

    /// The inner session: whoever is at the other end proves to be the gateway, or the way ends here.
    pub(crate) async fn inner<IO>(&self, io: IO) -> Result<TlsStream<IO>, WayError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self
            .trust
            .inner_client(None)
            .map_err(|error| WayError::new(Stage::InnerTls, WayCode::TrustUnusable, ProofError::Tls(error)))?;
        let session = TlsConnector::from(config).connect(inner_name(), io).await.map_err(|error| {
            let mismatch = is_identity_mismatch(&error);
            let code = if mismatch { WayCode::IdentityMismatch } else { WayCode::InnerTlsFailed };
            WayError::new(Stage::InnerTls, code, error)
        })?;
        if session.get_ref().1.alpn_protocol() != Some(proto::tunnel::ALPN) {
            return Err(WayError::new(
                Stage::InnerTls,
                WayCode::InnerTlsFailed,
                super::error::Cause::Said("the peer did not agree to speak the tunnel's protocol"),
            ));
        }
        Ok(session)
    }
}

/// The start of a fingerprint, as people compare it: `3f9c 11d0 …`.
pub(crate) fn short(fingerprint: &str) -> String {
    match (fingerprint.get(..4), fingerprint.get(4..8)) {
        (Some(first), Some(second)) if fingerprint.len() == 64 => format!("{first} {second} …"),
        _ => fingerprint.to_owned(),
    }
}
