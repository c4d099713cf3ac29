//! Tokens to be had: the source trait, the refreshing single-flight cache, and the sources.
//!
//! A source fetches and keeps nothing; the cache keeps and fetches through a source. Tokens are [`Secret`]; errors say
//! stage, cause and remedy and hold nothing that was secret.
//!
//! The sources write their few requests themselves instead of asking through Microsoft's `azure_identity`: that crate
//! keeps tokens behind one lock, drops the issuer's hint when to renew, repeats failed metadata requests for a minute and
//! a half whatever its options say, reads federated tokens up to ten minutes late, and has neither the Arc endpoints nor
//! certificates without OpenSSL. What would remain of it is a URL and four form fields.
mod answer;
mod arc_extension;
mod cache;
mod config;
mod entra;
mod error;
#[cfg(test)]
mod fakes;
mod file;
mod kubernetes;
mod managed;
mod schedule;
mod unverified;

use std::{
    fmt,
    future::Future,
    path::Path,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use self::{
    arc_extension::ArcExtension,
    entra::Entra,
    file::FileSource,
    managed::{Kind, Managed},
};
pub use self::{
    cache::Cache,
    config::{KubernetesConfig, Signature, SourceConfig, SourceKind},
    error::{ErrorCode, Stage, TokenError},
};
use crate::secret::Secret;

/// A token in hand.
#[derive(Debug, Clone)]
pub struct Token {
    /// The token.
    pub secret: Secret,
    /// When it ends.
    pub expires: SystemTime,
    /// When the issuer would like it renewed.
    pub refresh: Option<SystemTime>,
}

/// Where tokens come from.
pub trait Source: fmt::Debug + Send + Sync + 'static {
    /// Fetches a fresh token for an audience (without `/.default`). Has a deadline of its own.
    fn fetch<'a>(&'a self, audience: &'a str) -> Pin<Box<dyn Future<Output = Result<Token, TokenError>> + Send + 'a>>;

    /// A number that changes when what was fetched before should be fetched again although it is still valid, as when
    /// the file that it came from has changed. Asked at every use, so it must be cheap.
    fn generation(&self) -> u64 {
        0
    }
}

/// Deadline of one fetch when none is configured.
const DEADLINE: Duration = Duration::from_secs(10);

/// Builds a source from config. Relative paths are below `base`; what a pod finds in its environment stands in for what is
/// not written.
pub fn source(config: &SourceConfig, base: &Path) -> Result<Arc<dyn Source>, TokenError> {
    source_in(config, base, &config::process_environment)
}

fn source_in(
    config: &SourceConfig,
    base: &Path,
    environment: config::Environment<'_>,
) -> Result<Arc<dyn Source>, TokenError> {
    config.check().map_err(|(key, message)| TokenError::setting(&key, message))?;
    let deadline = config.deadline.map_or(DEADLINE, |span| span.0);
    let managed = |kind| Managed::new(kind, config, deadline, base, environment);
    Ok(match config.source {
        SourceKind::File => Arc::new(FileSource::new(base.join(config.path.as_deref().unwrap_or(Path::new(""))))),
        SourceKind::ClientSecret
        | SourceKind::ClientCertificate
        | SourceKind::WorkloadIdentity
        | SourceKind::TokenRequest => Arc::new(Entra::new(config, deadline, base, environment)?),
        SourceKind::Imds => Arc::new(managed(Kind::Imds)?),
        SourceKind::AppService => Arc::new(managed(Kind::AppService)?),
        SourceKind::Arc => Arc::new(managed(Kind::Arc)?),
        SourceKind::ArcExtension => Arc::new(ArcExtension::new(config, deadline, base, environment)?),
    })
}

#[cfg(test)]
mod tests;
