//! An Entra v2 token endpoint (OAuth 2.0 client credentials, RFC 6749 section 4.4; assertions, RFC 7523): one POST for each
//! fetch, nothing kept. What proves the application is a [`Proof`], read or made anew for each fetch; what an answer means
//! is judged in [`answer`]. A federated token that the endpoint finds too old is replaced once, if there is a newer one.
mod answer;
mod certificate;
mod proof;

use std::{
    fmt,
    path::Path,
    pin::Pin,
    time::{Duration, SystemTime},
};

use daemon::process::explain;
use http::StatusCode;
use url::Url;

use self::{
    certificate::Certificate,
    proof::{Proof, Shown},
};
use super::{
    ErrorCode, Source, SourceConfig, SourceKind, Stage, Token, TokenError,
    answer::{Budget, unanswered},
    config::{Environment, Fault},
    kubernetes::Kubernetes,
    unverified::Claims,
};
use crate::http_client::{self, HttpClient};

/// The public cloud.
const AUTHORITY: &str = "https://login.microsoftonline.com";

/// What federated credentials of the public cloud name unless their owner chose another.
const ASSERTION_AUDIENCE: &str = "api://AzureADTokenExchange";

/// How a client assertion is announced (RFC 7523 section 2.2).
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Fetches tokens in the name of an application.
pub(super) struct Entra {
    client: HttpClient,
    endpoint: Url,
    client_id: String,
    proof: Proof,
    deadline: Duration,
}

/// First problem of the settings that are written, as (key, message).
pub(super) fn check(config: &SourceConfig) -> Result<(), Fault> {
    for (key, value) in [("tenant", &config.tenant), ("client_id", &config.client_id)] {
        if let Some(text) = value {
            check_id(text).map_err(|message| (key.to_owned(), message))?;
        }
    }
    if let Some(authority) = &config.authority {
        endpoint(authority, "tenant").map_err(|message| ("authority".to_owned(), message))?;
    }
    Ok(())
}

fn check_id(text: &str) -> Result<(), String> {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if plain && !text.is_empty() { Ok(()) } else { Err("holds characters that no tenant or client id has".to_owned()) }
}

fn endpoint(authority: &str, tenant: &str) -> Result<Url, String> {
    if authority.contains(['?', '#']) {
        return Err("is the part before the tenant, without `?` and `#`".to_owned());
    }
    let authority = authority.trim_end_matches('/');
    http_client::checked(&format!("{authority}/{tenant}/oauth2/v2.0/token")).map_err(|error| error.to_string())
}

impl Entra {
    pub(super) fn new(
        config: &SourceConfig,
        deadline: Duration,
        base: &Path,
        environment: Environment<'_>,
    ) -> Result<Self, TokenError> {
        let federated = config.source == SourceKind::WorkloadIdentity;
        let setting = |key: &str, written: Option<&String>, variable: &str| {
            let found = written.cloned().or_else(|| environment(variable).filter(|_| federated));
            found.ok_or_else(|| match federated {
                true => TokenError::setting(key, format!("is absent, and so is {variable}")),
                false => TokenError::setting(key, "is absent"),
            })
        };
        let tenant = setting("tenant", config.tenant.as_ref(), "AZURE_TENANT_ID")?;
        let client_id = setting("client_id", config.client_id.as_ref(), "AZURE_CLIENT_ID")?;
        for (key, text) in [("tenant", &tenant), ("client_id", &client_id)] {
            check_id(text).map_err(|message| TokenError::setting(key, message))?;
        }
        let authority = setting("authority", config.authority.as_ref(), "AZURE_AUTHORITY_HOST");
        let authority = authority.unwrap_or_else(|_| AUTHORITY.to_owned());
        let endpoint = endpoint(&authority, &tenant).map_err(|message| TokenError::setting("authority", message))?;
        let client = HttpClient::for_endpoint(&endpoint, config.ca.as_deref(), base)
            .map_err(|error| TokenError::setting("ca", explain(&error)))?;
        let proof = match config.source {
            SourceKind::ClientCertificate => Proof::Certificate(Certificate::new(config, base).map_err(in_proof)?),
            SourceKind::WorkloadIdentity => {
                let written = config.path.as_ref().map(|path| path.display().to_string());
                Proof::File(base.join(setting("path", written.as_ref(), "AZURE_FEDERATED_TOKEN_FILE")?))
            }
            SourceKind::TokenRequest => {
                let audience = config.assertion_audience.clone().unwrap_or_else(|| ASSERTION_AUDIENCE.to_owned());
                Proof::Kubernetes { api: Kubernetes::new(config.kubernetes.as_ref(), base, environment)?, audience }
            }
            _ => Proof::secret(config, base).map_err(in_proof)?,
        };
        Ok(Self { client, endpoint, client_id, proof, deadline })
    }

    async fn ask(&self, audience: &str) -> Result<Token, TokenError> {
        let budget = Budget::new(self.deadline);
        let shown = self.show(budget).await?;
        match self.post(audience, &shown, budget).await {
            Err(error) if error.code == ErrorCode::AssertionExpired && self.proof.is_federated() => {
                let fresh = self.show(budget).await?;
                if fresh.text().matches(shown.text().expose()) {
                    return Err(error);
                }
                self.post(audience, &fresh, budget).await
            }
            outcome => outcome,
        }
    }

    async fn show(&self, budget: Budget) -> Result<Shown, TokenError> {
        self.proof.show(&self.client_id, &self.endpoint, budget).await.map_err(in_proof)
    }

    async fn post(&self, audience: &str, shown: &Shown, budget: Budget) -> Result<Token, TokenError> {
        let scope = format!("{audience}/.default");
        let mut form = vec![
            ("client_id", self.client_id.as_str()),
            ("grant_type", "client_credentials"),
            ("scope", scope.as_str()),
        ];
        match shown {
            Shown::Secret(secret) => form.push(("client_secret", secret.expose())),
            Shown::Assertion(assertion) => {
                form.extend([("client_assertion_type", ASSERTION_TYPE), ("client_assertion", assertion.expose())]);
            }
        }
        let answer = self.client.post_form(&self.endpoint, &form, budget.limits()).await;
        let answer = answer.map_err(|error| unanswered(&format!("token for {audience}"), &error))?;
        if answer.status != StatusCode::OK {
            return Err(self.explain(answer::refusal(self.host(), audience, &answer), shown));
        }
        answer::token(&answer.body, SystemTime::now()).ok_or_else(|| {
            let host = self.host();
            let message = format!("{host} answered 200 without a usable token for {audience}; the body is not logged");
            TokenError::new(ErrorCode::UpstreamShape, message)
        })
    }

    /// Adds to a refusal what a person would compare.
    fn explain(&self, error: TokenError, shown: &Shown) -> TokenError {
        let more = match error.code {
            ErrorCode::FederationMismatch => Claims::read(shown.text().expose()).map(|claims| claims.federation()),
            ErrorCode::AssertionExpired => self.proof.origin(),
            _ => None,
        };
        match more {
            Some(more) => TokenError::new(error.code, format!("{}; {more}", error.message)).after(error.retry_after),
            None => error,
        }
    }

    fn host(&self) -> &str {
        self.endpoint.host_str().unwrap_or_default()
    }
}

fn in_proof(error: TokenError) -> TokenError {
    error.at(Stage::Proof)
}

impl Source for Entra {
    fn fetch<'a>(&'a self, audience: &'a str) -> Pin<Box<dyn Future<Output = Result<Token, TokenError>> + Send + 'a>> {
        Box::pin(self.ask(audience))
    }

    fn generation(&self) -> u64 {
        self.proof.generation()
    }
}

impl fmt::Debug for Entra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entra")
            .field("host", &self.host())
            .field("client_id", &self.client_id)
            .field("proof", &self.proof.name())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
