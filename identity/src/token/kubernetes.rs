//! The Kubernetes API server, as far as token sources need it: a handful of plain requests as the pod's own service
//! account. Token and CA are read anew each time, because both are rotated under a running pod; no proxy is asked, and no
//! other CA is trusted.
use std::{
    fmt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use daemon::process::explain;
use http::{HeaderMap, HeaderValue, Method, header};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use url::Url;

use super::{
    ErrorCode, TokenError,
    answer::{Budget, bearer, passing, retry_after, tell, unanswered},
    config::{Environment, KubernetesConfig},
    file::read_token,
    unverified::Claims,
};
use crate::{
    http_client::{self, Answer, HttpClient},
    secret::Secret,
    tls::Trust,
};

/// Where every pod finds its token.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// Where every pod finds the CA of its API server.
const CA: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// Life of a token that proves us to a token endpoint: the shortest that the API server gives; it is used at once.
const LIFE_SECONDS: u32 = 600;

/// The API server and what proves us to it.
pub(super) struct Kubernetes {
    server: Url,
    token: PathBuf,
    ca: PathBuf,
}

/// What is done with a resource, as roles word it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verb {
    /// Read.
    Get,
    /// Make.
    Create,
    /// Change by a JSON merge patch.
    Patch,
}

impl Verb {
    fn method(self) -> Method {
        match self {
            Self::Get => Method::GET,
            Self::Create => Method::POST,
            Self::Patch => Method::PATCH,
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Get | Self::Create => "application/json",
            Self::Patch => "application/merge-patch+json",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Create => "create",
            Self::Patch => "patch",
        }
    }
}

/// Whether a text can name an object: it becomes a part of a path.
pub(super) fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    (1..=253).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with('.')
}

impl Kubernetes {
    pub(super) fn new(
        config: Option<&KubernetesConfig>,
        base: &Path,
        environment: Environment<'_>,
    ) -> Result<Self, TokenError> {
        let server = config.and_then(|config| config.api_server.clone()).or_else(|| in_cluster(environment));
        let server = server.ok_or_else(|| {
            TokenError::setting("kubernetes.api_server", "is absent, and so is KUBERNETES_SERVICE_HOST: this is no pod")
        })?;
        let server = http_client::checked(&server)
            .map_err(|error| TokenError::setting("kubernetes.api_server", explain(&error)))?;
        let path =
            |written: Option<&PathBuf>, usual: &str| base.join(written.map_or(Path::new(usual), PathBuf::as_path));
        Ok(Self {
            server,
            token: path(config.and_then(|config| config.token.as_ref()), TOKEN),
            ca: path(config.and_then(|config| config.ca.as_ref()), CA),
        })
    }

    /// A fresh token of the pod's own service account for this audience, bound to the pod if its own token is
    /// (`create` on `serviceaccounts/token`).
    pub(super) async fn own_token(&self, audience: &str, budget: Budget) -> Result<Secret, TokenError> {
        #[derive(Deserialize)]
        struct Granted {
            status: Status,
        }
        #[derive(Deserialize)]
        struct Status {
            token: String,
        }
        let own = read_token(&self.token)?.secret;
        let claims = Claims::read(own.expose()).unwrap_or_default();
        let account = claims.sub.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
        let Some((namespace, name)) = account.filter(|(namespace, name)| is_name(namespace) && is_name(name)) else {
            let message = format!("{} holds no token of a service account", self.token.display());
            return Err(TokenError::new(ErrorCode::UpstreamShape, message));
        };
        let mut spec = json!({ "audiences": [audience], "expirationSeconds": LIFE_SECONDS });
        if let Some(pod) = &claims.kubernetes.pod {
            spec["boundObjectRef"] = json!({ "apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid });
        }
        let request = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec });
        let path = ["api", "v1", "namespaces", namespace, "serviceaccounts", name, "token"];
        let granted: Granted = self.call(Verb::Create, &path, Some(request), budget).await?;
        bearer(granted.status.token, "bearer").ok_or_else(|| self.half_a_success(Verb::Create, &path))
    }

    /// One request; what is asked for stands in every error, so that a role can be written from it.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        verb: Verb,
        path: &[&str],
        body: Option<Value>,
        budget: Budget,
    ) -> Result<T, TokenError> {
        let own = read_token(&self.token)?.secret;
        let tls = self.server.scheme() == "https";
        let trust = Trust { system: false, files: if tls { vec![self.ca.clone()] } else { vec![] } };
        let client = HttpClient::straight(&trust, Path::new(""))
            .map_err(|error| TokenError::new(ErrorCode::FileUnreadable, explain(&error)))?;
        let mut headers = HeaderMap::new();
        headers.extend(own.header("Bearer ").map(|value| (header::AUTHORIZATION, value)));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(verb.content_type()));
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let answer = client.send(verb.method(), &self.url(path), headers, body, budget.limits()).await;
        let answer = answer.map_err(|error| unanswered(&what(verb, path), &error))?;
        if !answer.status.is_success() {
            return Err(refusal(verb, path, &answer));
        }
        serde_json::from_slice(&answer.body).map_err(|_| self.half_a_success(verb, path))
    }

    pub(super) fn half_a_success(&self, verb: Verb, path: &[&str]) -> TokenError {
        let host = self.server.host_str().unwrap_or_default();
        let message =
            format!("{}: {host} answered with success, but not as asked; the body is not logged", what(verb, path));
        TokenError::new(ErrorCode::UpstreamShape, message)
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.server.clone();
        // A URL with a host always has a path.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubernetes").field("server", &self.server.as_str()).finish_non_exhaustive()
    }
}

/// The API server as pods find it.
fn in_cluster(environment: Environment<'_>) -> Option<String> {
    let host = environment("KUBERNETES_SERVICE_HOST")?;
    let port = environment("KUBERNETES_SERVICE_PORT").unwrap_or_else(|| "443".to_owned());
    Some(if host.contains(':') { format!("https://[{host}]:{port}") } else { format!("https://{host}:{port}") })
}

fn what(verb: Verb, path: &[&str]) -> String {
    format!("Kubernetes {} /{}", verb.name(), path.join("/"))
}

fn refusal(verb: Verb, path: &[&str], answer: &Answer) -> TokenError {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Status {
        reason: String,
    }
    let status: Status = serde_json::from_slice(&answer.body).unwrap_or_default();
    let (code, reason) = passing(answer).unwrap_or(match answer.status.as_u16() {
        401 => (ErrorCode::KubernetesRefused, "it does not accept the pod's own token"),
        403 => (ErrorCode::KubernetesRefused, "the service account has no role that allows it"),
        404 => (ErrorCode::KubernetesRefused, "it is not there"),
        _ => (ErrorCode::KubernetesRefused, "it refuses the request"),
    });
    let mut message = format!("{}: status {}", what(verb, path), answer.status.as_u16());
    tell(&mut message, &[("reason", &status.reason)]);
    TokenError::new(code, format!("{message}: {reason}")).after(retry_after(&answer.headers))
}
