//! OAuth 2.0 client credentials (RFC 6749 section 4.4) at an Entra v2 token endpoint: one POST for each fetch, nothing
//! kept. What an answer means is judged in [`answer`].
mod answer;

use std::{
    fmt,
    path::{Path, PathBuf},
    pin::Pin,
    time::{Duration, SystemTime},
};

use daemon::{config::SecretRef, process::explain};
use http::StatusCode;
use url::Url;

use super::{ErrorCode, Source, SourceConfig, Token, TokenError, file::fingerprint};
use crate::{
    http_client::{self, HttpClient, HttpError, Limits},
    secret::Secret,
};

/// The public cloud.
const AUTHORITY: &str = "https://login.microsoftonline.com";

/// Deadline of one fetch when none is configured.
const DEADLINE: Duration = Duration::from_secs(10);

/// Largest answer: tokens with many groups reach tens of KiB.
const MAX_BODY: usize = 256 * 1024;

/// Fetches tokens with a client secret.
pub(super) struct ClientSecret {
    client: HttpClient,
    endpoint: Url,
    client_id: String,
    secret: SecretRef,
    base: PathBuf,
    deadline: Duration,
}

/// First problem of the settings, as (key, message).
pub(super) fn check(config: &SourceConfig) -> Result<(), (String, String)> {
    let fault = |key: &str, message: String| Err((key.to_owned(), message));
    for (key, value) in [("tenant", &config.tenant), ("client_id", &config.client_id)] {
        match value.as_deref() {
            None | Some("") => return fault(key, "`source: client_secret` needs it".to_owned()),
            Some(text) if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) => {
                return fault(key, "holds characters that no tenant or client id has".to_owned());
            }
            Some(_) => {}
        }
    }
    if config.client_secret.is_none() {
        let message = "`source: client_secret` needs it, as `{ file: … }` or `{ env: … }`";
        return fault("client_secret", message.to_owned());
    }
    endpoint(config).map(|_| ()).or_else(|message| fault("authority", message))
}

fn endpoint(config: &SourceConfig) -> Result<Url, String> {
    let authority = config.authority.as_deref().unwrap_or(AUTHORITY).trim_end_matches('/');
    let tenant = config.tenant.as_deref().unwrap_or_default();
    if authority.contains(['?', '#']) {
        return Err("is the part before the tenant, without `?` and `#`".to_owned());
    }
    http_client::checked(&format!("{authority}/{tenant}/oauth2/v2.0/token")).map_err(|error| error.to_string())
}

impl ClientSecret {
    pub(super) fn new(config: &SourceConfig, base: &Path) -> Result<Self, TokenError> {
        let wrong = |message: String| TokenError::new(ErrorCode::SourceMisconfigured, message);
        let endpoint = endpoint(config).map_err(|message| wrong(format!("authority: {message}")))?;
        let client =
            HttpClient::for_endpoint(&endpoint, config.ca.as_deref(), base).map_err(|error| wrong(explain(&error)))?;
        let source = Self {
            client,
            endpoint,
            client_id: config.client_id.clone().unwrap_or_default(),
            secret: config.client_secret.clone().ok_or_else(|| wrong("client_secret is missing".to_owned()))?,
            base: base.to_owned(),
            deadline: config.deadline.map_or(DEADLINE, |span| span.0),
        };
        // A secret that cannot be read now is a mistake in the configuration; later it may be a rotation going on.
        source.read_secret()?;
        Ok(source)
    }

    fn read_secret(&self) -> Result<Secret, TokenError> {
        let read = self.secret.read(&self.base);
        read.map(Secret::from).map_err(|error| TokenError::new(ErrorCode::FileUnreadable, explain(&error)))
    }

    async fn ask(&self, audience: &str) -> Result<Token, TokenError> {
        let secret = self.read_secret()?;
        let scope = format!("{audience}/.default");
        let form = [
            ("client_id", self.client_id.as_str()),
            ("client_secret", secret.expose()),
            ("grant_type", "client_credentials"),
            ("scope", scope.as_str()),
        ];
        let host = self.host();
        let limits = Limits { deadline: self.deadline, body: MAX_BODY };
        let answer = self.client.post_form(&self.endpoint, &form, limits).await.map_err(|error| {
            let code = match error {
                HttpError::TooLarge { .. } => ErrorCode::UpstreamShape,
                _ => ErrorCode::SourceUnavailable,
            };
            TokenError::new(code, format!("token for {audience}: {}", explain(&error)))
        })?;
        if answer.status != StatusCode::OK {
            return Err(answer::refusal(host, audience, &answer));
        }
        answer::token(&answer.body, SystemTime::now()).ok_or_else(|| {
            let message = format!("{host} answered 200 without a usable token for {audience}; the body is not logged");
            TokenError::new(ErrorCode::UpstreamShape, message)
        })
    }

    fn host(&self) -> &str {
        self.endpoint.host_str().unwrap_or_default()
    }
}

impl Source for ClientSecret {
    fn fetch<'a>(&'a self, audience: &'a str) -> Pin<Box<dyn Future<Output = Result<Token, TokenError>> + Send + 'a>> {
        Box::pin(self.ask(audience))
    }

    fn generation(&self) -> u64 {
        self.secret.path(&self.base).map_or(0, |path| fingerprint(&path))
    }
}

impl fmt::Debug for ClientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSecret")
            .field("host", &self.host())
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
