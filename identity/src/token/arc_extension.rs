//! The identity of an extension in an Azure Arc-connected Kubernetes cluster (SD-19). The cluster's owner makes an
//! `AzureClusterIdentityRequest` for one audience in the namespace `azure-arc`; the Arc agents put a token into a Secret
//! beside it and write its name and end into the status. Clearing that end asks them for a new token.
//!
//! Experimental: the shapes are those that a public agent of Microsoft's uses, and which audiences Arc serves is not
//! documented. Roles needed, each for one object by name: `get` on the request, `patch` on its status, `get` on the Secret.
//! The Secret's name comes from a status that others may write, so its content is passed on only if it is a JWT.
use std::{
    fmt,
    path::Path,
    pin::Pin,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    ErrorCode, Source, SourceConfig, Token, TokenError,
    answer::{Budget, bearer},
    config::Environment,
    kubernetes::{Kubernetes, Verb, is_name},
};
use crate::{jwt, secret::Secret};

/// Group and version of the requests.
const API: [&str; 3] = ["apis", "clusterconfig.azure.com", "v1beta1"];
/// Their plural.
const REQUESTS: &str = "azureclusteridentityrequests";
/// Where they and their Secrets are.
const NAMESPACE: &str = "azure-arc";

/// A token with less life left is asked for anew: the agents need about a minute, and may be busy.
const RENEW: Duration = Duration::from_secs(30 * 60);

/// When to look again while the agents work.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Fetches tokens by way of one identity request.
pub(super) struct ArcExtension {
    api: Kubernetes,
    request: String,
    deadline: Duration,
}

/// A request, as far as it is looked at.
#[derive(Deserialize)]
struct Request {
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Spec {
    audience: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    expiration_time: Option<String>,
    token_reference: Option<Reference>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Reference {
    secret_name: String,
    data_name: String,
}

impl ArcExtension {
    pub(super) fn new(
        config: &SourceConfig,
        deadline: Duration,
        base: &Path,
        environment: Environment<'_>,
    ) -> Result<Self, TokenError> {
        let api = Kubernetes::new(config.kubernetes.as_ref(), base, environment)?;
        let request = config.request.clone().ok_or_else(|| TokenError::setting("request", "is absent"))?;
        Ok(Self { api, request, deadline })
    }

    async fn ask(&self, audience: &str) -> Result<Token, TokenError> {
        let budget = Budget::new(self.deadline);
        let path = [API[0], API[1], API[2], "namespaces", NAMESPACE, REQUESTS, &self.request];
        let request: Request = self.api.call(Verb::Get, &path, None, budget).await?;
        let bare = |text: &str| text.strip_suffix('/').unwrap_or(text).to_owned();
        if bare(&request.spec.audience) != bare(audience) {
            let message =
                format!("the identity request {} is not for {audience}; make one for each audience", self.request);
            return Err(TokenError::new(ErrorCode::SourceMisconfigured, message));
        }
        let now = SystemTime::now();
        let end = request.status.expiration_time.as_deref().and_then(point_in_time);
        let held = match &request.status.token_reference {
            Some(reference) => self.read(reference, end, budget).await?,
            None => None,
        };
        if end.is_some_and(|end| end < now + RENEW) {
            let renewed = self.renew(budget).await;
            match (&held, renewed) {
                (None, Err(error)) => return Err(error),
                (Some(_), Err(error)) => {
                    tracing::warn!(request = self.request, error = %error, "an identity request cannot be renewed");
                }
                (_, Ok(())) => tracing::debug!(request = self.request, "identity request renewed"),
            }
        }
        held.filter(|token| token.expires > now).ok_or_else(|| {
            let message =
                format!("the Arc agents have not put a valid token beside the identity request {} yet", self.request);
            TokenError::new(ErrorCode::SourceUnavailable, message).after(Some(LOOK_AGAIN))
        })
    }

    /// The token in the Secret, if there is one.
    async fn read(
        &self,
        reference: &Reference,
        end: Option<SystemTime>,
        budget: Budget,
    ) -> Result<Option<Token>, TokenError> {
        #[derive(Deserialize)]
        struct Held {
            #[serde(default)]
            data: std::collections::BTreeMap<String, String>,
        }
        if !is_name(&reference.secret_name) {
            return Ok(None);
        }
        let path = ["api", "v1", "namespaces", NAMESPACE, "secrets", &reference.secret_name];
        let held: Held = self.api.call(Verb::Get, &path, None, budget).await?;
        let Some(text) = held.data.get(&reference.data_name) else { return Ok(None) };
        let token = STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let secret = token.and_then(|token| bearer(token.trim_end().to_owned(), "bearer"));
        let told = |secret: &Secret| jwt::unverified_expiry(secret.expose());
        let (Some(expires), Some(secret)) = (secret.as_ref().and_then(told), secret) else {
            return Err(self.api.half_a_success(Verb::Get, &path));
        };
        let expires = end.map_or(expires, |end| end.min(expires));
        Ok(Some(Token { secret, expires, refresh: None }))
    }

    async fn renew(&self, budget: Budget) -> Result<(), TokenError> {
        let path = [API[0], API[1], API[2], "namespaces", NAMESPACE, REQUESTS, &self.request, "status"];
        let cleared = json!({ "status": { "expirationTime": "" } });
        self.api.call::<Value>(Verb::Patch, &path, Some(cleared), budget).await.map(|_| ())
    }
}

/// RFC 3339, as Kubernetes writes times; a cleared one is none.
fn point_in_time(text: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(SystemTime::from)
}

impl Source for ArcExtension {
    fn fetch<'a>(&'a self, audience: &'a str) -> Pin<Box<dyn Future<Output = Result<Token, TokenError>> + Send + 'a>> {
        Box::pin(self.ask(audience))
    }
}

impl fmt::Debug for ArcExtension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArcExtension").field("api", &self.api).field("request", &self.request).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
