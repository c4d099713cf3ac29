//! Proof of the gateway's identity (SD-1): the trust file turned into TLS configurations, and the session in which the
//! peer proves itself. A peer that cannot is told nothing; there is no weaker form.
use std::{
    io,
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
use crate::trust::TrustFile;

/// Largest trust file: some CAs, nothing else.
const TRUST_FILE_MAX: u64 = 256 * 1024;

/// Why a trust file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// It cannot be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is not a trust file.
    #[error("{}: not a trust file: {message}", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
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
    /// Its certificates cannot be used.
    #[error("{}: cannot be used", path.display())]
    Certificates {
        /// Which file.
        path: PathBuf,
        /// What is wrong with them.
        #[source]
        source: TlsError,
    },
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
    pub(crate) fn read(path: &Path, cluster: &str) -> Result<Self, TrustError> {
        let read = |source| TrustError::Read { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(read)?.len() > TRUST_FILE_MAX {
            let message = format!("it has more than {TRUST_FILE_MAX} bytes");
            return Err(TrustError::Parse { path: path.to_owned(), message });
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        let file: TrustFile = serde_saphyr::from_str(&text)
            .map_err(|error| TrustError::Parse { path: path.to_owned(), message: error.to_string() })?;
        if file.cluster != cluster {
            return Err(TrustError::OtherCluster {
                path: path.to_owned(),
                found: file.cluster,
                expected: cluster.to_owned(),
            });
        }
        Self::of(&file).map_err(|source| TrustError::Certificates { path: path.to_owned(), source })
    }

    fn of(file: &TrustFile) -> Result<Self, TlsError> {
        let trust = ClusterTrust::new(&file.cluster, &file.certificates, &file.backup_pins)?;
        let single = file
            .certificates
            .iter()
            .map(|certificate| {
                let fingerprint = identity::ca::spki_sha256(certificate)?;
                Ok((fingerprint, ClusterTrust::new(&file.cluster, &[certificate], &[])?))
            })
            .collect::<Result<_, TlsError>>()?;
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
        let config = self.trust.inner_client(None).map_err(|source| {
            let path = PathBuf::from("trust file");
            WayError::new(Stage::InnerTls, WayCode::TrustUnusable, TrustError::Certificates { path, source })
        })?;
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
