//! Tokens to be had: the source trait, the refreshing single-flight cache, and the sources.
use std::{fmt, future::Future, path::Path, pin::Pin, sync::Arc, time::SystemTime};

use daemon::{
    clock::SharedClock,
    config::{SecretRef, Span},
    shutdown::Shutdown,
};
use serde::Deserialize;

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
}

/// Why there is no token: stage, cause, whether trying again can help. Codes are those of the catalogue.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{code:?}: {message}")]
pub struct TokenError {
    /// Stable code.
    pub code: ErrorCode,
    /// For people; no secrets.
    pub message: String,
    /// The issuer's hint.
    pub retry_after: Option<std::time::Duration>,
}

/// Stable codes (`identity` catalogue).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// Network or 5xx.
    SourceUnavailable,
    /// 429.
    SourceThrottled,
    /// The issuer says no.
    EntraRejected,
    /// 200 without a usable token.
    UpstreamShape,
    /// A file cannot be read.
    FileUnreadable,
    /// Nothing valid is left.
    TokenExpired,
}

/// `token: { source: …, … }` in a config file: how a program gets its own bearer token.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Which source: `client_secret` or `file`.
    pub source: SourceKind,
    /// Audience asked for.
    pub audience: Option<String>,
    /// `file`: a token that something else renews (a projected service-account token); read again when it changes.
    pub path: Option<std::path::PathBuf>,
    /// `client_secret`: authority, default `https://login.microsoftonline.com`.
    pub authority: Option<String>,
    /// `client_secret`: tenant.
    pub tenant: Option<String>,
    /// `client_secret`: application.
    pub client_id: Option<String>,
    /// `client_secret`: the secret.
    pub client_secret: Option<SecretRef>,
    /// PEM CA for the authority, beside the system's roots.
    pub ca: Option<std::path::PathBuf>,
    /// Deadline of one fetch; default 10 s.
    pub deadline: Option<Span>,
}

/// The sources there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// A file with a bearer token.
    File,
    /// OAuth 2.0 client credentials at an Entra v2 token endpoint.
    ClientSecret,
}

/// Builds a source from config.
pub fn source(config: &SourceConfig, base: &Path) -> Result<Arc<dyn Source>, TokenError> {
    let _ = (config, base);
    todo!()
}

/// The refreshing, single-flight cache: serves a valid token, renews ahead, never serves an expired one, keeps a valid
/// one through outages. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cache {}

impl Cache {
    /// A cache over one source; refreshes run in tasks owned by `shutdown`.
    pub fn new(source: Arc<dyn Source>, clock: SharedClock, shutdown: Shutdown) -> Self {
        let _ = (source, clock, shutdown);
        todo!()
    }

    /// A valid token for the audience.
    pub async fn get(&self, audience: &str) -> Result<Token, TokenError> {
        let _ = audience;
        todo!()
    }

    /// Forgets what it holds for the audience, because a peer refused it.
    pub fn refused(&self, audience: &str) {
        let _ = audience;
        todo!()
    }
}
