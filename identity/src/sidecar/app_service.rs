//! The App Service face: what a request must be, and what becomes of it. The order of the checks is fixed: what a web
//! page or a proxy could cause is refused before the secret is looked at, and the secret before the query.
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use daemon::{clock::SharedClock, process::Context, shutdown::Shutdown};
use http::{HeaderMap, HeaderValue, Method, header, request::Parts};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

use super::{
    Config, Refusal,
    answer::{self, Answer},
};
use crate::{
    secret::Secret,
    tls::pem::hex,
    token::{Cache, Token, TokenError},
};

/// The path, as the real service has it; one slash at the end is tolerated.
const PATH: &str = "/msi/token";

/// Longest query: an audience, an identity and a hash fit several times.
const MAX_QUERY: usize = 4096;

/// Hosts that loopback goes by, and the address that some clients are redirected from.
const HOSTS: [&str; 4] = ["127.0.0.1", "localhost", "[::1]", "169.254.169.254"];

/// Fields that a proxy adds.
const PROXY_FIELDS: [&str; 3] = ["x-forwarded-for", "forwarded", "via"];

/// Parameters that choose an identity.
const SELECTORS: [&str; 5] = ["client_id", "object_id", "principal_id", "mi_res_id", "msi_res_id"];

/// Pause between attempts while requests wait for the first token.
const HOLD_PAUSE: Duration = Duration::from_millis(500);

/// The id that SDKs send, echoed.
const CLIENT_REQUEST_ID: &str = "x-ms-client-request-id";

/// The face and what it needs.
#[derive(Debug)]
pub(super) struct AppService {
    header: Secret,
    config: Config,
    client_id: String,
    cache: Cache,
    clock: SharedClock,
    shutdown: Shutdown,
    /// Until when requests wait for the first token.
    hold_until: Instant,
    had_token: AtomicBool,
    requests: Family<Outcome, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Why there is no token for a request.
enum Denied {
    Refused(Refusal),
    Failed(TokenError),
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<TokenError> for Denied {
    fn from(error: TokenError) -> Self {
        Self::Failed(error)
    }
}

/// What a well-formed request asks for.
struct Asked {
    resource: String,
    /// SHA-256 of a token that a service refused, in hexadecimal.
    revoked: Option<String>,
}

impl AppService {
    pub(super) fn new(header: Secret, config: Config, cache: Cache, context: &Context) -> Self {
        let requests = Family::<Outcome, Counter>::default();
        let help = "Requests for tokens by outcome: granted, or the code of the refusal";
        context.metrics.register(|registry| registry.register("token_requests", help, requests.clone()));
        Self {
            header,
            client_id: config.source.identity().unwrap_or_default(),
            hold_until: context.clock.instant() + config.hold_until_first_token.0,
            config,
            cache,
            clock: context.clock.clone(),
            shutdown: context.shutdown.clone(),
            had_token: AtomicBool::new(false),
            requests,
        }
    }

    /// Answers one request; its body, if any, is not read.
    pub(super) async fn answer(&self, request: &Parts, peer: SocketAddr) -> Answer {
        let request_id = client_request_id(&request.headers);
        let correlation_id = correlation_id();
        let mut record = Record {
            face: self,
            peer,
            began: self.clock.instant(),
            correlation_id: correlation_id.clone(),
            request_id: request_id.and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned(),
            audience: None,
            outcome: "Cancelled",
            status: 0,
        };
        let mut answer = match self.decide(request, &mut record.audience).await {
            Ok((token, resource)) => {
                record.outcome = "granted";
                answer::grant(&token, &resource, &self.client_id, self.clock.now())
            }
            Err(Denied::Refused(refusal)) => {
                record.outcome = refusal.name();
                answer::refuse(refusal, &correlation_id)
            }
            Err(Denied::Failed(error)) => {
                record.outcome = error.code.name();
                answer::fail(&error, &correlation_id)
            }
        };
        record.status = answer.status().as_u16();
        if let Some(id) = request_id {
            answer.headers_mut().insert(CLIENT_REQUEST_ID, id.clone());
        }
        answer
    }

    async fn decide(&self, request: &Parts, audience: &mut Option<String>) -> Result<(Token, String), Denied> {
        let asked = self.judge(request, audience)?;
        let mut token = self.token(&asked.resource).await?;
        if asked.revoked.is_some_and(|hash| hash.eq_ignore_ascii_case(&sha256(&token.secret))) {
            self.cache.refused(&asked.resource);
            token = self.token(&asked.resource).await?;
        }
        Ok((token, asked.resource))
    }

    fn judge(&self, request: &Parts, audience: &mut Option<String>) -> Result<Asked, Refusal> {
        let path = request.uri.path();
        if path.strip_suffix('/').unwrap_or(path) != PATH {
            return Err(Refusal::UnknownPath);
        }
        if request.method != Method::GET {
            return Err(Refusal::UnknownMethod);
        }
        if !is_own_host(&request.headers) {
            return Err(Refusal::BadHost);
        }
        // A target with a host is how a proxy is asked.
        let fields = &request.headers;
        if request.uri.authority().is_some() || PROXY_FIELDS.iter().any(|name| fields.contains_key(*name)) {
            return Err(Refusal::ForwardedRequest);
        }
        let shown = one(fields, "x-identity-header").and_then(|value| value.to_str().ok());
        if !shown.is_some_and(|shown| self.header.matches(shown)) {
            return Err(Refusal::BadSecretHeader);
        }
        self.judge_query(request.uri.query().unwrap_or_default(), audience)
    }

    fn judge_query(&self, query: &str, audience: &mut Option<String>) -> Result<Asked, Refusal> {
        if query.len() > MAX_QUERY {
            return Err(Refusal::UnknownParameter);
        }
        let mut values = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            // SDKs may add parameters that we do not know; a doubled one could be read in two ways.
            if values.insert(name, value).is_some() {
                return Err(Refusal::UnknownParameter);
            }
        }
        let value = |name: &str| values.get(name).map(AsRef::as_ref).filter(|value: &&str| !value.is_empty());
        if value("api-version") != Some("2019-08-01") {
            return Err(Refusal::UnknownParameter);
        }
        let resource = value("resource").ok_or(Refusal::MissingResource)?;
        *audience = is_plain(resource).then(|| resource.to_owned());
        let selectors: Vec<_> = SELECTORS.iter().filter_map(|name| Some((*name, value(name)?))).collect();
        match selectors.as_slice() {
            [] => {}
            [("client_id", id)] if id.eq_ignore_ascii_case(&self.client_id) => {}
            [_] => return Err(Refusal::IdentityNotBound),
            _ => return Err(Refusal::AmbiguousIdentity),
        }
        if !self.config.allows(resource) {
            return Err(Refusal::AudienceNotAllowed);
        }
        let revoked = value("token_sha256_to_refresh").map(str::to_owned);
        Ok(Asked { resource: resource.to_owned(), revoked })
    }

    /// A token from the cache. Shortly after the start, when there has not been one yet, a failure that may pass is
    /// waited out: SDKs give up sooner than a network comes up.
    async fn token(&self, resource: &str) -> Result<Token, Denied> {
        loop {
            let error = match self.cache.get(resource).await {
                Ok(token) => {
                    self.had_token.store(true, Ordering::Relaxed);
                    return Ok(token);
                }
                Err(error) => error,
            };
            let left = self.hold_until.saturating_duration_since(self.clock.instant());
            if self.had_token.load(Ordering::Relaxed) || !error.code.retryable() || left.is_zero() {
                return Err(error.into());
            }
            let pause = error.retry_after.unwrap_or_default().clamp(HOLD_PAUSE / 10, HOLD_PAUSE).min(left);
            tokio::select! {
                biased;
                () = self.shutdown.draining() => return Err(Refusal::Draining.into()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

/// One access line, written however the request ends.
struct Record<'a> {
    face: &'a AppService,
    peer: SocketAddr,
    began: Instant,
    correlation_id: String,
    request_id: String,
    /// What was asked for by somebody who showed the secret, if it looks like an audience.
    audience: Option<String>,
    outcome: &'static str,
    status: u16,
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        self.face.requests.get_or_create(&Outcome { outcome: self.outcome }).inc();
        let took = self.face.clock.instant().saturating_duration_since(self.began);
        tracing::info!(
            target: "access",
            what = "token",
            face = "app_service",
            peer = %self.peer,
            audience = self.audience,
            outcome = self.outcome,
            status = self.status,
            correlation_id = self.correlation_id,
            client_request_id = self.request_id,
            milliseconds = took.as_secs_f64() * 1000.0,
        );
    }
}

/// Whether an audience may be logged: of moderate length, and without parts that could hold something else.
fn is_plain(resource: &str) -> bool {
    resource.len() <= 200 && resource.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":/.-_".contains(&byte))
}

/// The one value of a field; nothing when it is missing or doubled.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn is_own_host(headers: &HeaderMap) -> bool {
    let Some(host) = one(headers, header::HOST.as_str()).and_then(|value| value.to_str().ok()) else { return false };
    HOSTS.iter().any(|own| {
        let Some(prefix) = host.get(..own.len()) else { return false };
        let port = &host[own.len()..];
        prefix.eq_ignore_ascii_case(own)
            && (port.is_empty()
                || port.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit())))
    })
}

/// The id of the caller, if it is one that may be repeated in an answer and a log.
fn client_request_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    one(headers, CLIENT_REQUEST_ID).filter(|id| {
        (1..=64).contains(&id.len())
            && id.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
    })
}

/// A fresh id that joins an answer with our log.
fn correlation_id() -> String {
    let mut bytes = [0_u8; 16];
    // Without randomness the id is all zeros: it joins less, and harms nothing.
    let _no_randomness = aws_lc_rs::rand::fill(&mut bytes);
    hex(&bytes)
}

fn sha256(token: &Secret) -> String {
    hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.expose().as_bytes()).as_ref())
}
