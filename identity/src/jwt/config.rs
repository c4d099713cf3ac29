//! What a config file says about authenticators, and the checks that types alone cannot make.
use std::{path::PathBuf, str::FromStr, time::Duration};

use jsonwebtoken::{Algorithm, AlgorithmFamily};
use serde::Deserialize;

use crate::http_client;

/// Difference between two clocks that is forgiven.
const LEEWAY: Duration = Duration::from_secs(60);

/// More would keep expired tokens alive for longer than many of them live.
const MAX_LEEWAY: Duration = Duration::from_secs(600);

/// Claims that their owner, or an administrator of some tenant, can change: never a subject (SD-7).
const MUTABLE_CLAIMS: [&str; 5] = ["email", "upn", "preferred_username", "unique_name", "name"];

/// One entry of `authenticators:` in a config file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthenticatorConfig {
    /// Exact `iss`.
    pub issuer: String,
    /// Audience that `aud` must be or hold, compared letter by letter; only of an https origin, such as
    /// `https://relay.azure.net`, slashes at the end do not count.
    pub audience: String,
    /// Where keys come from: `{ file: … }` or `{ url: https://… }`; default: the issuer's OpenID configuration.
    #[serde(default)]
    pub jwks: Option<JwksConfig>,
    /// PEM CA for fetching keys, beside the system's roots; default none.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Claim that names the subject; default `sub`. Claims that can be changed (`email`, `upn`,
    /// `preferred_username`, …) are refused.
    #[serde(default = "subject_default")]
    pub subject: String,
    /// Claims whose values rules of a policy may ask for, beside groups and roles: texts, numbers, booleans, or lists of
    /// them. Claims that can be changed by their owner are refused, as for `subject`. Default: none.
    #[serde(default)]
    pub claims: Vec<String>,
    /// Allowed algorithms, asymmetric only; default RS256 and ES256.
    #[serde(default)]
    pub algorithms: Vec<String>,
    /// Allowed `typ`, without regard to case and to `application/`; a token without one counts as `JWT`. Default `JWT`
    /// and `at+jwt`.
    #[serde(default)]
    pub types: Vec<String>,
    /// Clock leeway; default 60 s, at most 10 min.
    #[serde(default)]
    pub leeway: Option<daemon::config::Span>,
}

fn subject_default() -> String {
    "sub".to_owned()
}

/// Where a key set comes from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum JwksConfig {
    /// A file, reloaded on change.
    File(PathBuf),
    /// A URL, https (http on loopback only), refreshed, refetched at most once a minute for an unknown key id.
    Url(String),
}

/// An authenticator's rules after their checks.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) issuer: String,
    pub(super) audience: String,
    pub(super) subject: String,
    /// Kept for policies.
    pub(super) claims: Vec<String>,
    pub(super) algorithms: Vec<Algorithm>,
    /// Lower case, without `application/`.
    pub(super) types: Vec<String>,
    pub(super) leeway: Duration,
}

impl Rules {
    /// Fails with what is wrong and how to mend it.
    pub(super) fn new(config: &AuthenticatorConfig) -> Result<Self, String> {
        if config.issuer.is_empty() {
            return Err("`issuer` is empty: write the exact `iss` of its tokens".to_owned());
        }
        if config.audience.is_empty() {
            return Err("`audience` is empty: write the exact `aud` of its tokens, one per cluster".to_owned());
        }
        if config.subject.is_empty() || MUTABLE_CLAIMS.contains(&config.subject.as_str()) {
            let claim = &config.subject;
            return Err(format!("`subject: {claim}` can be changed by its owner; use `sub`, or `oid` for Entra"));
        }
        if let Some(claim) =
            config.claims.iter().find(|claim| claim.is_empty() || MUTABLE_CLAIMS.contains(&claim.as_str()))
        {
            return Err(format!("`claims: {claim}` can be changed by its owner; no rule may rest on it"));
        }
        let leeway = config.leeway.map_or(LEEWAY, |span| span.0);
        if leeway > MAX_LEEWAY {
            return Err("`leeway` is at most 10m".to_owned());
        }
        let types = if config.types.is_empty() { vec!["jwt".to_owned(), "at+jwt".to_owned()] } else { types(config) };
        Ok(Self {
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            subject: config.subject.clone(),
            claims: config.claims.clone(),
            algorithms: algorithms(&config.algorithms)?,
            types,
            leeway,
        })
    }
}

fn types(config: &AuthenticatorConfig) -> Vec<String> {
    config.types.iter().map(|name| normal_type(name)).collect()
}

/// A media type as it is compared: RFC 7515 section 4.1.9 lets `application/` be left out.
pub(super) fn normal_type(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    name.strip_prefix("application/").map_or_else(|| name.clone(), str::to_owned)
}

fn algorithms(names: &[String]) -> Result<Vec<Algorithm>, String> {
    if names.is_empty() {
        return Ok(vec![Algorithm::RS256, Algorithm::ES256]);
    }
    names
        .iter()
        .map(|name| match Algorithm::from_str(name) {
            Ok(algorithm) if algorithm.family() != AlgorithmFamily::Hmac => Ok(algorithm),
            Ok(_) => Err(format!("`algorithms: {name}` is symmetric: whoever can verify could also sign")),
            Err(_) => Err(format!(
                "`algorithms: {name}` is not known; RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA are"
            )),
        })
        .collect()
}

impl AuthenticatorConfig {
    /// First problem found, for programs that validate their configuration before a port opens.
    pub fn check(&self) -> Result<(), String> {
        Rules::new(self)?;
        match &self.jwks {
            Some(JwksConfig::File(_)) => Ok(()),
            Some(JwksConfig::Url(url)) => http_client::checked(url).map(|_| ()).map_err(|error| error.to_string()),
            None => http_client::checked(&self.issuer)
                .map(|_| ())
                .map_err(|error| format!("without `jwks`, the issuer's OpenID configuration is asked, but {error}")),
        }
    }
}
