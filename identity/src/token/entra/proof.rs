//! What proves an application to a token endpoint. Secrets, keys and tokens are read anew for each fetch, so that a
//! rotated one needs no restart; nothing is kept between fetches.
use std::path::{Path, PathBuf};

use daemon::{config::SecretRef, process::explain};
use url::Url;

use super::certificate::Certificate;
use crate::{
    secret::Secret,
    token::{
        ErrorCode, SourceConfig, TokenError,
        answer::Budget,
        file::{fingerprint, read_token},
        kubernetes::Kubernetes,
    },
};

/// Where the proof comes from.
pub(super) enum Proof {
    /// A client secret.
    Secret {
        /// Which.
        reference: SecretRef,
        /// What relative paths are below.
        base: PathBuf,
    },
    /// Assertions that we sign.
    Certificate(Certificate),
    /// A federated token that something else renews.
    File(PathBuf),
    /// A federated token of the pod's own service account, issued for each fetch.
    Kubernetes {
        /// By whom.
        api: Kubernetes,
        /// For whom.
        audience: String,
    },
}

/// A proof in hand.
pub(super) enum Shown {
    /// A client secret.
    Secret(Secret),
    /// A client assertion.
    Assertion(Secret),
}

impl Shown {
    pub(super) fn text(&self) -> &Secret {
        match self {
            Self::Secret(text) | Self::Assertion(text) => text,
        }
    }
}

impl Proof {
    /// A client secret; one that cannot be read now is a mistake in the configuration, later it may be a rotation going on.
    pub(super) fn secret(config: &SourceConfig, base: &Path) -> Result<Self, TokenError> {
        let reference = config.client_secret.clone();
        let reference = reference.ok_or_else(|| TokenError::setting("client_secret", "is absent"))?;
        read(&reference, base)?;
        Ok(Self::Secret { reference, base: base.to_owned() })
    }

    pub(super) async fn show(&self, client_id: &str, endpoint: &Url, budget: Budget) -> Result<Shown, TokenError> {
        Ok(match self {
            Self::Secret { reference, base } => Shown::Secret(read(reference, base)?),
            Self::Certificate(certificate) => Shown::Assertion(certificate.sign(client_id, endpoint)?),
            Self::File(path) => Shown::Assertion(read_token(path).map_err(expired_is_an_assertion)?.secret),
            Self::Kubernetes { api, audience } => Shown::Assertion(api.own_token(audience, budget).await?),
        })
    }

    /// Whether a newer one may come of itself.
    pub(super) fn is_federated(&self) -> bool {
        matches!(self, Self::File(_) | Self::Kubernetes { .. })
    }

    /// A number that changes when the proof does.
    pub(super) fn generation(&self) -> u64 {
        match self {
            Self::Secret { reference, base } => reference.path(base).map_or(0, |path| fingerprint(&path)),
            Self::Certificate(certificate) => certificate.generation(),
            Self::File(path) => fingerprint(path),
            Self::Kubernetes { .. } => 0,
        }
    }

    /// Where a person looks when it is too old.
    pub(super) fn origin(&self) -> Option<String> {
        match self {
            Self::File(path) => Some(format!("it was read from {}", path.display())),
            _ => None,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Secret { .. } => "client secret",
            Self::Certificate(_) => "client certificate",
            Self::File(_) => "federated token file",
            Self::Kubernetes { .. } => "token request",
        }
    }
}

/// Reads a secret.
pub(super) fn read(reference: &SecretRef, base: &Path) -> Result<Secret, TokenError> {
    let secret = reference.read(base).map(Secret::from);
    secret.map_err(|error| TokenError::new(ErrorCode::FileUnreadable, explain(&error)))
}

/// The token in the file is not the one that was asked for: it is what should prove us.
fn expired_is_an_assertion(error: TokenError) -> TokenError {
    match error.code {
        ErrorCode::TokenExpired => TokenError { code: ErrorCode::AssertionExpired, ..error },
        _ => error,
    }
}
