//! Verification of JWTs by named authenticators (SD-7): the key decides which one vouches, never the issuer string.
use std::{collections::BTreeMap, path::Path, time::SystemTime};

use daemon::{clock::SharedClock, shutdown::Shutdown};
use serde::Deserialize;

use crate::principal::Principal;

/// One entry of `authenticators:` in a config file.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthenticatorConfig {
    /// Exact `iss`.
    pub issuer: String,
    /// Exact audience that `aud` must be or hold.
    pub audience: String,
    /// Where keys come from: `{ file: … }` or `{ url: https://… }`; default: the issuer's OpenID configuration.
    #[serde(default)]
    pub jwks: Option<JwksConfig>,
    /// Claim that names the subject; default `sub`.
    #[serde(default = "subject_default")]
    pub subject: String,
    /// Allowed algorithms, asymmetric only; default RS256 and ES256.
    #[serde(default)]
    pub algorithms: Vec<String>,
    /// Clock leeway; default 60 s.
    #[serde(default)]
    pub leeway: Option<daemon::config::Span>,
}

fn subject_default() -> String {
    "sub".to_owned()
}

/// Where a key set comes from.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum JwksConfig {
    /// A file, reloaded on change.
    File(std::path::PathBuf),
    /// A URL, https (http on loopback only), refreshed, refetched at most once a minute for an unknown key id.
    Url(String),
}

/// Why a token was refused. Texts never hold the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Not three base64url parts with a JSON head.
    #[error("token is malformed")]
    Malformed,
}

/// All authenticators of a process, with the verdict cache (by SHA-256 of the token, until expiry or reload).
#[derive(Debug)]
pub struct Authenticators {}

impl Authenticators {
    /// Builds them; keys load and reload in tasks owned by `shutdown`. `base` is what relative paths mean.
    pub async fn start(
        config: &BTreeMap<String, AuthenticatorConfig>,
        base: &Path,
        clock: SharedClock,
        shutdown: &Shutdown,
    ) -> Result<Self, StartError> {
        let _ = (config, base, clock, shutdown);
        todo!()
    }

    /// Verifies a bearer token (without the `Bearer ` prefix).
    pub async fn verify(&self, token: &str) -> Result<Principal, JwtError> {
        let _ = token;
        todo!()
    }
}

/// Reads `exp` of a token **without verifying it**, for scheduling renewals of our own tokens.
pub fn unverified_expiry(token: &str) -> Option<SystemTime> {
    let _ = token;
    todo!()
}

/// Why authenticators could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting cannot work.
    #[error("authenticator {name}: {message}")]
    Config {
        /// Which.
        name: String,
        /// What and how to mend it.
        message: String,
    },
}
