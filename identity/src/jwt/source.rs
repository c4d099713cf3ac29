//! Where an authenticator's keys come from, and how they stay fresh: a file is followed, a URL asked every hour and, for
//! an unknown key id, at most once a minute. Nobody waits for a peer to start. When a source fails, the last good set
//! stays for a day and is then dropped: keys that nobody has confirmed for that long may have been withdrawn.
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use daemon::{clock::SharedClock, shutdown::Shutdown, watch::Content};
use proto::retry::{self, Ladder};
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    config::{AuthenticatorConfig, JwksConfig},
    keys::{KeySet, MAX_BYTES},
};
use crate::{
    chance,
    http_client::{self, HttpClient, Limits},
};

/// Time between two regular fetches.
const REFRESH: Duration = Duration::from_secs(3600);

/// Least time between two fetches that tokens with unknown key ids can cause (SD-7).
pub(super) const REFETCH_PAUSE: Duration = Duration::from_secs(60);

/// Attempts after a failed fetch: callers are refused until one succeeds, but all gateways ask the same issuer.
const RETRY: retry::Policy = retry::Policy {
    climb: retry::Climb::Exponential { first: Duration::from_secs(5), factor: 2.0, cap: Duration::from_secs(300) },
    hint_max: Duration::ZERO,
    healthy: Duration::ZERO,
};

/// Full jitter may draw nothing; an issuer is not asked twice within a second all the same.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

/// How long the last good set is believed without being confirmed.
pub(super) const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// What a verification waits at most for a fetch: longer than a healthy issuer takes, shorter than a caller waits.
const WAIT: Duration = Duration::from_secs(5);

const LIMITS: Limits = Limits { deadline: Duration::from_secs(10), body: MAX_BYTES };

/// The keys of one authenticator, and the means to have them fetched.
#[derive(Debug)]
pub(super) struct KeySource {
    name: String,
    keys: ArcSwap<KeySet>,
    /// Hash of the bytes in force, so that an unchanged set does not cost everybody's verdicts.
    digest: Mutex<Option<[u8; 32]>>,
    confirmed: Mutex<Option<Instant>>,
    /// Counts finished fetches, good or bad.
    attempts: watch::Sender<u64>,
    asked: Mutex<Option<Instant>>,
    wanted: Notify,
    fetches: bool,
    generation: Arc<AtomicU64>,
    clock: SharedClock,
}

/// Where to ask.
enum Endpoint {
    Keys(Url),
    /// The issuer's OpenID configuration names the key set.
    Discovery {
        issuer: String,
        document: Url,
    },
}

impl KeySource {
    /// Loads from a file now (errors are final), or begins to fetch, in a task that ends with `stop`. `generation` counts
    /// changes of keys.
    pub(super) fn start(
        name: &str,
        config: &AuthenticatorConfig,
        base: &Path,
        generation: Arc<AtomicU64>,
        clock: SharedClock,
        shutdown: &Shutdown,
        stop: &CancellationToken,
    ) -> Result<Arc<Self>, String> {
        let source = Arc::new(Self {
            name: name.to_owned(),
            keys: ArcSwap::default(),
            digest: Mutex::new(None),
            confirmed: Mutex::new(None),
            attempts: watch::Sender::new(0),
            asked: Mutex::new(None),
            wanted: Notify::new(),
            fetches: !matches!(config.jwks, Some(JwksConfig::File(_))),
            generation,
            clock,
        });
        let endpoint = match &config.jwks {
            Some(JwksConfig::File(file)) => {
                source.follow(base.join(file), shutdown, stop.clone())?;
                return Ok(source);
            }
            Some(JwksConfig::Url(url)) => Endpoint::Keys(http_client::checked(url).map_err(|error| error.to_string())?),
            None => {
                let document = format!("{}/.well-known/openid-configuration", config.issuer.trim_end_matches('/'));
                let document = http_client::checked(&document).map_err(|error| {
                    format!("without `jwks`, the issuer's OpenID configuration is asked, but {error}")
                })?;
                Endpoint::Discovery { issuer: config.issuer.clone(), document }
            }
        };
        let client = HttpClient::for_endpoint(endpoint.url(), config.ca.as_deref(), base).map_err(explain)?;
        shutdown.spawn(source.clone().refresh(client, endpoint, stop.clone()));
        Ok(source)
    }

    /// The keys to believe now.
    pub(super) fn keys(&self) -> Arc<KeySet> {
        self.keys.load_full()
    }

    /// Has the keys fetched because a token names one that is not here, and waits a little for the outcome. Returns at
    /// once where there is nothing to fetch, or when a fetch was asked for within the last minute.
    pub(super) async fn refetch(&self) {
        if !self.fetches {
            return;
        }
        let mut attempts = self.attempts.subscribe();
        let first = *attempts.borrow_and_update() == 0;
        if !first && !self.may_ask() {
            return;
        }
        if !first {
            self.wanted.notify_one();
        }
        // Whoever waits in vain is told that the keys are not known.
        let _late = tokio::time::timeout(WAIT, attempts.changed()).await;
    }

    /// Counts finished attempts, so that tests can wait for one.
    #[cfg(test)]
    pub(super) fn attempts_for_tests(&self) -> watch::Receiver<u64> {
        self.attempts.subscribe()
    }

    fn may_ask(&self) -> bool {
        let now = self.clock.instant();
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let may = asked.is_none_or(|last| now.saturating_duration_since(last) >= REFETCH_PAUSE);
        if may {
            *asked = Some(now);
        }
        may
    }

    fn follow(self: &Arc<Self>, path: PathBuf, shutdown: &Shutdown, stop: CancellationToken) -> Result<(), String> {
        let mut changes = daemon::watch::files(vec![path.clone()])
            .map_err(|error| format!("{} cannot be watched: {error}", path.display()))?;
        let first = changes.borrow_and_update().first().and_then(Content::bytes).cloned();
        self.load(first.as_deref()).map_err(|message| format!("{}: {message}", path.display()))?;
        let source = self.clone();
        shutdown.spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    changed = changes.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(REFRESH) => {}
                }
                let snapshot = changes.borrow_and_update().first().and_then(Content::bytes).cloned();
                let outcome = source.load(snapshot.as_deref());
                source.settle(outcome.map_err(|message| format!("{}: {message}", path.display())));
            }
        });
        Ok(())
    }

    async fn refresh(self: Arc<Self>, client: HttpClient, endpoint: Endpoint, stop: CancellationToken) {
        let mut ladder = Ladder::new(RETRY);
        loop {
            let outcome = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                fetched = endpoint.fetch(&client) => fetched,
            };
            let outcome = outcome.and_then(|bytes| self.load(Some(&bytes)).map_err(|problem| endpoint.tell(problem)));
            let pause = if outcome.is_ok() {
                ladder.ended(Duration::MAX);
                REFRESH.mul_f64(0.9 + 0.2 * chance::fraction())
            } else {
                ladder.next_wait(None).max(LEAST_PAUSE)
            };
            self.settle(outcome);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.wanted.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Puts a key set in force.
    fn load(&self, bytes: Option<&[u8]>) -> Result<(), String> {
        let bytes = bytes.ok_or("cannot be read")?;
        let set = KeySet::parse(bytes).map_err(|problem| problem.to_string())?;
        *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.clock.instant());
        let digest = super::sha256(bytes);
        if self.digest.lock().unwrap_or_else(PoisonError::into_inner).replace(digest) != Some(digest) {
            tracing::info!(authenticator = self.name, keys = set.len(), "key set loaded");
            self.replace(set);
        }
        Ok(())
    }

    /// Ends an attempt: a failure is told, and drops keys that were not confirmed for too long.
    fn settle(&self, outcome: Result<(), String>) {
        if let Err(problem) = outcome {
            tracing::warn!(
                authenticator = self.name,
                problem,
                "key set not refreshed; the last good one stays for now"
            );
            let confirmed = *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
            let now = self.clock.instant();
            let too_old = confirmed.is_some_and(|last| now.saturating_duration_since(last) >= MAX_AGE);
            if too_old && self.keys.load().len() > 0 {
                tracing::error!(authenticator = self.name, "keys dropped: not confirmed for a day");
                *self.digest.lock().unwrap_or_else(PoisonError::into_inner) = None;
                self.replace(KeySet::default());
            }
        }
        self.attempts.send_modify(|attempts| *attempts += 1);
    }

    fn replace(&self, set: KeySet) {
        self.keys.store(Arc::new(set));
        // After the store: a verdict reached with the old keys then carries an old generation.
        self.generation.fetch_add(1, Ordering::Release);
    }
}

impl Endpoint {
    fn url(&self) -> &Url {
        match self {
            Self::Keys(url) => url,
            Self::Discovery { document, .. } => document,
        }
    }

    fn tell(&self, problem: impl std::fmt::Display) -> String {
        let url = self.url();
        format!("{}://{}{}: {problem}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
    }

    async fn fetch(&self, client: &HttpClient) -> Result<bytes::Bytes, String> {
        #[derive(Deserialize)]
        struct Document {
            issuer: String,
            jwks_uri: String,
        }
        let keys = match self {
            Self::Keys(url) => url.clone(),
            Self::Discovery { issuer, document } => {
                let bytes = get(client, document).await.map_err(|problem| self.tell(problem))?;
                let found: Document = serde_json::from_slice(&bytes)
                    .map_err(|_| self.tell("is no OpenID configuration with `issuer` and `jwks_uri`"))?;
                if found.issuer != *issuer {
                    return Err(self.tell("names another issuer than the authenticator; compare them letter by letter"));
                }
                http_client::checked(&found.jwks_uri).map_err(|error| self.tell(format!("`jwks_uri`: {error}")))?
            }
        };
        get(client, &keys).await.map_err(|problem| self.tell(problem))
    }
}

async fn get(client: &HttpClient, url: &Url) -> Result<bytes::Bytes, String> {
    let answer = client.get(url, LIMITS).await.map_err(explain)?;
    match answer.status {
        http::StatusCode::OK => Ok(answer.body),
        status if status.is_redirection() => Err(format!("answered {status}; redirects are not followed")),
        status => Err(format!("answered {status}")),
    }
}

/// An error and what caused it, in one line.
fn explain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
