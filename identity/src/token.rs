//! Tokens to be had: the source trait, the refreshing single-flight cache, and the sources.
//!
//! A source fetches and keeps nothing; the cache keeps and fetches through a source. Tokens are [`Secret`]; errors say
//! stage, cause and remedy and hold nothing that was secret.
mod cache;
mod client_secret;
mod error;
mod file;
mod schedule;

use std::{fmt, future::Future, path::Path, path::PathBuf, pin::Pin, sync::Arc, time::SystemTime};

use daemon::config::{SecretRef, Span};
use serde::Deserialize;

pub use self::{
    cache::Cache,
    error::{ErrorCode, TokenError},
};
use self::{client_secret::ClientSecret, file::FileSource};
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

/// `token: { source: …, … }` in a config file: how a program gets its own bearer token.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Which source: `client_secret` or `file`.
    pub source: SourceKind,
    /// Audience asked for; default none, where the program knows it otherwise.
    pub audience: Option<String>,
    /// `file`: a token that something else renews (a projected service-account token); read again when it changes.
    pub path: Option<PathBuf>,
    /// `client_secret`: authority, default `https://login.microsoftonline.com`.
    pub authority: Option<String>,
    /// `client_secret`: tenant.
    pub tenant: Option<String>,
    /// `client_secret`: application.
    pub client_id: Option<String>,
    /// `client_secret`: the secret; read again at every fetch.
    pub client_secret: Option<SecretRef>,
    /// PEM CA for the authority, beside the system's roots; default none.
    pub ca: Option<PathBuf>,
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

impl SourceConfig {
    /// First problem found, as (key, message), for programs that validate before a port opens. Files are not read.
    pub fn check(&self) -> Result<(), (String, String)> {
        let fault = |key: &str, message: &str| Err((key.to_owned(), message.to_owned()));
        let foreign: &[(&str, bool)] = match self.source {
            SourceKind::File => {
                if self.path.is_none() {
                    return fault("path", "`source: file` needs the path of a file with a token");
                }
                &[
                    ("authority", self.authority.is_some()),
                    ("tenant", self.tenant.is_some()),
                    ("client_id", self.client_id.is_some()),
                    ("client_secret", self.client_secret.is_some()),
                    ("ca", self.ca.is_some()),
                    ("deadline", self.deadline.is_some()),
                ]
            }
            SourceKind::ClientSecret => {
                client_secret::check(self)?;
                &[("path", self.path.is_some())]
            }
        };
        match foreign.iter().find(|(_, set)| *set) {
            Some((key, _)) => fault(key, "does not belong to this source; remove it or change `source`"),
            None => Ok(()),
        }
    }
}

/// Builds a source from config. Relative paths are below `base`.
pub fn source(config: &SourceConfig, base: &Path) -> Result<Arc<dyn Source>, TokenError> {
    config
        .check()
        .map_err(|(key, message)| TokenError::new(ErrorCode::SourceMisconfigured, format!("{key}: {message}")))?;
    Ok(match config.source {
        SourceKind::File => Arc::new(FileSource::new(base.join(config.path.as_deref().unwrap_or(Path::new(""))))),
        SourceKind::ClientSecret => Arc::new(ClientSecret::new(config, base)?),
    })
}
