//! Managed identities: a plain GET to an endpoint beside the process, which knows who we are by where we are. Three
//! endpoints share question and answer, and differ in what they want to see first: a `Metadata` header (IMDS), a secret
//! header (App Service), or the content of a file that only the right users can read (Azure Arc).
mod answer;
mod arc;
mod challenge;
mod pace;

use std::{
    fmt,
    path::{Path, PathBuf},
    pin::Pin,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use daemon::{config::SecretRef, process::explain};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use url::Url;

use self::pace::Pace;
use super::{
    ErrorCode, Source, SourceConfig, Stage, Token, TokenError,
    answer::{Budget, unanswered},
    config::Environment,
    file::fingerprint,
};
use crate::{
    http_client::{self, Answer, HttpClient},
    secret::Secret,
};

/// What tells IMDS that a request was meant for it, and not forged by way of somebody who follows links.
const METADATA: HeaderName = HeaderName::from_static("metadata");
/// What tells the App Service endpoint that we are its own process.
const IDENTITY_HEADER: HeaderName = HeaderName::from_static("x-identity-header");

/// Which endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Azure VM or AKS node.
    Imds,
    /// App Service and its like.
    AppService,
    /// Azure Arc-enabled server.
    Arc,
}

impl Kind {
    fn api_version(self) -> &'static str {
        match self {
            Self::Imds => "2018-02-01",
            Self::AppService => "2019-08-01",
            Self::Arc => "2020-06-01",
        }
    }

    /// How it spells the resource id of an identity.
    fn resource_id(self) -> &'static str {
        match self {
            Self::AppService => "mi_res_id",
            Self::Imds | Self::Arc => "msi_res_id",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Imds => "IMDS",
            Self::AppService => "the App Service identity endpoint",
            Self::Arc => "the Azure Arc agent",
        }
    }

    /// The endpoint, if it is one that this kind can have.
    pub(super) fn endpoint(self, text: &str) -> Result<Url, String> {
        let url = http_client::checked_near(text).map_err(|error| error.to_string())?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err("is the part before `?` and `#`; the query is made for each request".to_owned());
        }
        if self == Self::Arc && !http_client::is_loopback(&url) {
            return Err("the Azure Arc agent is on this machine; use 127.0.0.1".to_owned());
        }
        Ok(url)
    }

    /// Where it is when nobody wrote it down.
    fn usual_endpoint(self, environment: Environment<'_>) -> Option<String> {
        match self {
            Self::Imds => Some("http://169.254.169.254/metadata/identity/oauth2/token".to_owned()),
            Self::AppService => environment("IDENTITY_ENDPOINT"),
            // Without IMDS_ENDPOINT, the variable is that of App Service.
            Self::Arc => environment("IMDS_ENDPOINT")
                .and_then(|_| environment("IDENTITY_ENDPOINT"))
                .or_else(|| Some("http://127.0.0.1:40342/metadata/identity/oauth2/token".to_owned())),
        }
    }
}

/// Fetches tokens of a managed identity.
pub(super) struct Managed {
    kind: Kind,
    client: HttpClient,
    endpoint: Url,
    /// Name and value of the parameter that chooses an identity.
    selector: Option<(&'static str, String)>,
    /// The secret header, for App Service.
    header: Option<(SecretRef, PathBuf)>,
    /// Where an Arc agent may keep its keys.
    keys: PathBuf,
    pace: Pace,
    deadline: Duration,
}

impl Managed {
    pub(super) fn new(
        kind: Kind,
        config: &SourceConfig,
        deadline: Duration,
        base: &Path,
        environment: Environment<'_>,
    ) -> Result<Self, TokenError> {
        let endpoint = config.endpoint.clone().or_else(|| kind.usual_endpoint(environment));
        let endpoint = endpoint.ok_or_else(|| {
            TokenError::setting("endpoint", "is absent, and so is IDENTITY_ENDPOINT: this is no App Service")
        })?;
        let endpoint = kind.endpoint(&endpoint).map_err(|message| TokenError::setting("endpoint", message))?;
        let client = HttpClient::for_endpoint(&endpoint, None, base)
            .map_err(|error| TokenError::setting("endpoint", explain(&error)))?;
        let selectors = [
            ("client_id", &config.client_id),
            ("object_id", &config.object_id),
            (kind.resource_id(), &config.resource_id),
        ];
        let selector = selectors.into_iter().find_map(|(name, value)| Some((name, value.clone()?)));
        let header = (kind == Kind::AppService).then(|| {
            let usual = || SecretRef::Env("IDENTITY_HEADER".to_owned());
            (config.header.clone().unwrap_or_else(usual), base.to_owned())
        });
        let source =
            Self { kind, client, endpoint, selector, header, keys: arc::KEYS.into(), pace: Pace::default(), deadline };
        // A header that cannot be read now is a mistake in the configuration; later it may be a rotation going on.
        source.secret_header()?;
        Ok(source)
    }

    async fn ask(&self, audience: &str) -> Result<Token, TokenError> {
        let budget = Budget::new(self.deadline);
        let _turn = self.pace.turn(budget).await?;
        let mut headers = HeaderMap::new();
        headers.insert(METADATA, HeaderValue::from_static("true"));
        if let Some(secret) = self.secret_header()? {
            let value = secret.header("").ok_or_else(|| {
                TokenError::setting("header", "holds characters that no header field may have").at(Stage::Proof)
            })?;
            headers.insert(IDENTITY_HEADER, value);
        }
        let mut answer = self.get(audience, headers, budget).await?;
        if self.kind == Kind::Arc {
            answer = self.answer_challenge(audience, &answer, budget).await?;
        }
        if answer.status != StatusCode::OK {
            return Err(answer::refusal(self.kind, &self.asked(audience), &answer));
        }
        let selector = self.selector.as_ref().map(|(name, value)| (*name, value.as_str()));
        answer::token(&answer.body, selector, self.kind == Kind::Arc, SystemTime::now()).map_err(|why| {
            let mut message = format!("{}: {} answered 200, but {why}", self.asked(audience), self.kind.name());
            if let Some(page) = super::answer::foreign_page(&answer) {
                message.push_str(&format!("; it is {page}"));
            }
            TokenError::new(ErrorCode::UpstreamShape, format!("{message}; the body is not logged"))
        })
    }

    async fn get(&self, audience: &str, headers: HeaderMap, budget: Budget) -> Result<Answer, TokenError> {
        let mut url = self.endpoint.clone();
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("api-version", self.kind.api_version()).append_pair("resource", audience);
            if let Some((name, value)) = &self.selector {
                query.append_pair(name, value);
            }
        }
        let answer = self.client.send(Method::GET, &url, headers, Bytes::new(), budget.limits()).await;
        answer.map_err(|error| unanswered(&self.asked(audience), &error))
    }

    fn secret_header(&self) -> Result<Option<Secret>, TokenError> {
        let Some((reference, base)) = &self.header else { return Ok(None) };
        let secret = reference.read(base).map(Secret::from);
        secret.map(Some).map_err(|error| TokenError::new(ErrorCode::FileUnreadable, explain(&error)).at(Stage::Proof))
    }

    /// What was asked of whom, for messages.
    fn asked(&self, audience: &str) -> String {
        let host = self.endpoint.host_str().unwrap_or_default();
        match &self.selector {
            Some((name, value)) => format!("token for {audience} from {host}, {name} {value}"),
            None => format!("token for {audience} from {host}, system-assigned identity"),
        }
    }
}

impl Source for Managed {
    fn fetch<'a>(&'a self, audience: &'a str) -> Pin<Box<dyn Future<Output = Result<Token, TokenError>> + Send + 'a>> {
        Box::pin(self.ask(audience))
    }

    fn generation(&self) -> u64 {
        self.header.as_ref().and_then(|(header, base)| header.path(base)).map_or(0, |path| fingerprint(&path))
    }
}

impl fmt::Debug for Managed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Managed")
            .field("kind", &self.kind)
            .field("endpoint", &self.endpoint.as_str())
            .field("selector", &self.selector)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
