//! `sidecar.yaml`.
use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use daemon::config::{SecretRef, Span, Validate};
use serde::Deserialize;

use crate::token::SourceConfig;

/// The config file of `identity sidecar`.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where it listens, loopback only; default 127.0.0.1:40345.
    #[serde(default = "listen_default")]
    pub listen: SocketAddr,
    /// Where tokens come from.
    pub source: SourceConfig,
    /// What it serves.
    pub faces: Faces,
    /// Audiences that may be asked for, without `/.default`; everything else is refused. One `/` at the end makes no
    /// difference here.
    pub allow: Vec<String>,
    /// Audiences of `allow` whose tokens are fetched at the start and kept fresh; default none.
    #[serde(default)]
    pub warm: Vec<String>,
    /// How long after the start a request waits for the first token instead of failing; default 20s.
    #[serde(default = "hold_default")]
    pub hold_until_first_token: Span,
}

/// The faces of a sidecar.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Faces {
    /// App Service 2019-08-01, for `IDENTITY_ENDPOINT=http://127.0.0.1:40345/msi/token` and `IDENTITY_HEADER`.
    pub app_service: AppServiceConfig,
}

/// The App Service face.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AppServiceConfig {
    /// The secret that callers show in `X-IDENTITY-HEADER`; at least 22 characters, random for each pod.
    pub header: SecretRef,
}

fn listen_default() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 40345).into()
}

fn hold_default() -> Span {
    Span(Duration::from_secs(20))
}

impl Config {
    /// The allowed audience that `resource` means, if any. SDKs differ in one `/` at the end.
    pub(super) fn allows(&self, resource: &str) -> bool {
        self.allow.iter().any(|allowed| bare(allowed) == bare(resource))
    }
}

fn bare(audience: &str) -> &str {
    audience.strip_suffix('/').unwrap_or(audience)
}

impl Validate for Config {
    fn validate(&self) -> Result<(), (String, String)> {
        let fault = |key: &str, message: String| Err((key.to_owned(), message));
        if !self.listen.ip().is_loopback() {
            let address = self.listen;
            return fault(
                "listen",
                format!(
                    "{address} can be reached from elsewhere, and this face hands out tokens; use 127.0.0.1 or [::1]"
                ),
            );
        }
        self.source.check().map_err(|(key, message)| (format!("source.{key}"), message))?;
        if self.allow.is_empty() {
            return fault("allow", "no audience may be asked for; list those that the workload needs".to_owned());
        }
        for (index, audience) in self.allow.iter().enumerate() {
            if bare(audience).is_empty() || audience.ends_with("/.default") {
                return fault(&format!("allow[{index}]"), "write the audience alone, without /.default".to_owned());
            }
        }
        match self.warm.iter().position(|audience| !self.allows(audience)) {
            Some(index) => fault(&format!("warm[{index}]"), "is not among the audiences of `allow`".to_owned()),
            None => Ok(()),
        }
    }
}
