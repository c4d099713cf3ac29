//! Shared access signatures as Azure Relay uses them: minted and verified over the raw, percent-encoded resource.
use std::time::{Duration, SystemTime};

use crate::secret::Secret;

/// What a rule allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rights {
    /// Hold a control channel, renew.
    pub listen: bool,
    /// Connect and send.
    pub send: bool,
    /// Read and manage entities.
    pub manage: bool,
}

/// A shared access rule: a name, rights, and one or two keys.
#[derive(Debug, Clone)]
pub struct Rule {
    /// `skn`.
    pub name: String,
    /// What it allows.
    pub rights: Rights,
    /// Primary first.
    pub keys: Vec<Secret>,
}

/// Mints `SharedAccessSignature sr=…&sig=…&se=…&skn=…` for a resource URI such as `http://host/path`.
pub fn mint(resource: &str, rule: &str, key: &Secret, expires: SystemTime) -> Secret {
    let _ = (resource, rule, key, expires);
    todo!()
}

/// A verified token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The rule that signed it.
    pub rule: String,
    /// What it allows.
    pub rights: Rights,
    /// When it ends.
    pub expires: SystemTime,
}

/// Why a token was refused; the texts follow what the live service says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SasError {
    /// Not a shared access signature, or a field is missing or doubled.
    #[error("MalformedToken: The token is not a shared access signature.")]
    Malformed,
    /// No key of the named rule made this signature, or there is no such rule.
    #[error("InvalidSignature: The token has an invalid signature.")]
    Signature,
    /// Past `se`.
    #[error("ExpiredToken: The token is expired.")]
    Expired,
    /// `sr` does not cover what was asked for.
    #[error("InvalidAudience: The authorization header contains a token with a wrong audience.")]
    Audience,
}

/// Verifies a token. `rules` are entity rules first, then namespace rules; `host` is the namespace (without port) and
/// `path` the requested path (entity and suffix, without `$hc/`). Signature is checked over the raw `sr`, in constant time.
pub fn verify(
    token: &str,
    rules: &[&Rule],
    host: &str,
    path: &str,
    now: SystemTime,
    skew: Duration,
) -> Result<Verified, SasError> {
    let _ = (token, rules, host, path, now, skew);
    todo!()
}
