//! The one cache: one fetch at a time for each audience, renewal ahead of the end, a valid token through every outage,
//! never an expired one.
//!
//! A token is *fresh* (served), *due* (served, and renewed in the background), in its *last minute* (one attempt is
//! waited for, then it is served while it lasts) or *dead*. Its remaining life is measured by the monotonic clock from
//! the moment of receipt; a wall clock that says the end has passed, as after a suspended night, is believed too.
//! Fetches run in tasks of their own: whoever asked first may give up without harm to those who asked later.
mod flight;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use daemon::{clock::SharedClock, shutdown::Shutdown};
use proto::retry::Ladder;
use tokio::sync::watch;

use super::{ErrorCode, Source, Token, TokenError, schedule};
use crate::chance::Chance;

/// Most audiences at a time. They come from configuration; the bound is for the day they do not.
const MAX_AUDIENCES: usize = 256;

/// Longest audience.
const MAX_AUDIENCE: usize = 512;

/// From here on a renewal is waited for instead of left to the background.
const LAST_MINUTE: Duration = Duration::from_secs(60);

/// With less left, a token would expire on its way.
const LEAST_LIFE: Duration = Duration::from_secs(5);

/// How long somebody waits for a fetch: a little longer than one takes by default, so that its own reason arrives.
const JOIN: Duration = Duration::from_millis(10_500);

/// A token that is refused younger than this is not fetched again: a new one would be refused as well.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);

/// Longest sleep of a task that keeps an audience fresh, so that it notices a machine that was suspended.
const LONGEST_NAP: Duration = Duration::from_secs(30);

/// A wall clock set back by more than this moves the end that is told.
const NOTABLE_STEP: Duration = Duration::from_secs(2);

/// Both readings of the clock.
type Now = (Instant, SystemTime);

/// The refreshing, single-flight cache: serves a valid token, renews ahead, never serves an expired one, keeps a valid
/// one through outages. Cheap to clone.
#[derive(Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

struct Inner {
    source: Arc<dyn Source>,
    clock: SharedClock,
    chance: Chance,
    shutdown: Shutdown,
    entries: Mutex<HashMap<String, Arc<Entry>>>,
    /// Counts uses, to find the audience that was not asked for the longest.
    uses: AtomicU64,
}

struct Entry {
    audience: String,
    used: AtomicU64,
    state: Mutex<State>,
}

struct State {
    held: Option<Held>,
    /// The fetch under way; its receiver changes when it has landed.
    flight: Option<watch::Receiver<bool>>,
    failures: u32,
    ladder: Ladder,
    retry_at: Option<Instant>,
    problem: Option<TokenError>,
    /// The source's generation when the last fetch began.
    generation: u64,
}

struct Held {
    token: Token,
    received: Instant,
    refresh_at: Instant,
    dead_at: Instant,
}

/// What to do for somebody who asks.
enum Plan {
    Serve(Token),
    Wait(watch::Receiver<bool>),
    Refuse(TokenError),
}

impl Cache {
    /// A cache over one source; refreshes run in tasks owned by `shutdown`.
    pub fn new(source: Arc<dyn Source>, clock: SharedClock, shutdown: Shutdown) -> Self {
        Self::with_chance(source, clock, shutdown, Chance::default())
    }

    /// The same with chosen randomness, for tests.
    pub fn with_chance(source: Arc<dyn Source>, clock: SharedClock, shutdown: Shutdown, chance: Chance) -> Self {
        let (entries, uses) = (Mutex::default(), AtomicU64::new(0));
        Self { inner: Arc::new(Inner { source, clock, chance, shutdown, entries, uses }) }
    }

    /// A valid token for the audience. Waits for a fetch only when none is held that lasts, and then 10.5 s at most.
    pub async fn get(&self, audience: &str) -> Result<Token, TokenError> {
        let entry = self.inner.entry(audience)?;
        match self.inner.plan(&entry) {
            Plan::Serve(token) => Ok(token),
            Plan::Refuse(error) => Err(error),
            Plan::Wait(mut landed) => {
                // Late, or cut off by the end of the process: what is held then decides.
                let _late = tokio::time::timeout(JOIN, landed.changed()).await;
                self.inner.after_wait(&entry)
            }
        }
    }

    /// Keeps a token for the audience at hand, renewed whether or not anybody asks, until the process drains.
    pub fn keep_fresh(&self, audience: &str) {
        let (cache, audience) = (self.clone(), audience.to_owned());
        self.inner.shutdown.spawn(async move {
            let stop = cache.inner.shutdown.clone();
            loop {
                let asked = tokio::select! {
                    biased;
                    () = stop.draining() => return,
                    asked = cache.get(&audience) => asked,
                };
                let nap = match asked {
                    Ok(_) => LONGEST_NAP,
                    Err(error) => error.retry_after.unwrap_or_default().clamp(Duration::from_secs(1), LONGEST_NAP),
                };
                tokio::select! {
                    biased;
                    () = stop.draining() => return,
                    () = tokio::time::sleep(nap) => {}
                }
            }
        });
    }

    /// What it holds, for `/statusz`: audiences, remaining seconds, and what went wrong last. No tokens.
    pub fn overview(&self) -> serde_json::Value {
        let now = self.inner.now();
        let entries = self.inner.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows: Vec<_> = entries.values().cloned().collect();
        drop(entries);
        rows.sort_by(|one, two| one.audience.cmp(&two.audience));
        rows.iter()
            .map(|entry| {
                let state = entry.lock();
                serde_json::json!({
                    "audience": entry.audience,
                    "seconds_left": state.left(now).as_secs(),
                    "fetching": state.flight.is_some(),
                    "failures": state.failures,
                    "problem": state.problem.as_ref().map(|problem| problem.code.name()),
                })
            })
            .collect()
    }

    /// Forgets what it holds for the audience, because a peer refused it. A token that was fetched within the last ten
    /// seconds stays: it is not its age that is wrong.
    pub fn refused(&self, audience: &str) {
        let Ok(entry) = self.inner.entry(audience) else { return };
        let now = self.inner.clock.instant();
        let mut state = entry.lock();
        if state.held.as_ref().is_some_and(|held| now.saturating_duration_since(held.received) >= REFUSED_PAUSE) {
            state.held = None;
        }
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("source", &self.inner.source).finish_non_exhaustive()
    }
}

impl Entry {
    /// Poisoning is ignored: every state is a valid one.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Remaining life; zero when either clock says that it is over.
    fn left(&self, now: Now) -> Duration {
        if now.1 >= self.token.expires { Duration::ZERO } else { self.dead_at.saturating_duration_since(now.0) }
    }

    /// The token with its end told in terms of the wall clock as it stands now: set back, the end comes earlier.
    fn token(&self, now: Now) -> Token {
        let end = now.1 + self.dead_at.saturating_duration_since(now.0);
        let expires = match self.token.expires.duration_since(end) {
            Ok(ahead) if ahead > NOTABLE_STEP => end,
            _ => self.token.expires,
        };
        Token { expires, ..self.token.clone() }
    }
}

impl Inner {
    fn now(&self) -> Now {
        (self.clock.instant(), self.clock.now())
    }

    fn entry(&self, audience: &str) -> Result<Arc<Entry>, TokenError> {
        if audience.is_empty() || audience.len() > MAX_AUDIENCE {
            let message = format!("an audience has 1 to {MAX_AUDIENCE} bytes");
            return Err(TokenError::new(ErrorCode::SourceMisconfigured, message));
        }
        let used = self.uses.fetch_add(1, Ordering::Relaxed);
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(audience) {
            entry.used.store(used, Ordering::Relaxed);
            return Ok(entry.clone());
        }
        if entries.len() >= MAX_AUDIENCES {
            let idlest = entries.values().min_by_key(|entry| entry.used.load(Ordering::Relaxed));
            if let Some(idlest) = idlest.map(|entry| entry.audience.clone()) {
                entries.remove(&idlest);
            }
        }
        let state = Mutex::new(State::new(self.chance.clone()));
        let entry = Arc::new(Entry { audience: audience.to_owned(), used: AtomicU64::new(used), state });
        entries.insert(audience.to_owned(), entry.clone());
        Ok(entry)
    }

    fn plan(self: &Arc<Self>, entry: &Arc<Entry>) -> Plan {
        let now = self.now();
        let generation = self.source.generation();
        let mut state = entry.lock();
        let changed = state.generation != generation;
        if changed && state.flight.is_none() {
            // What was wrong with the old file says nothing about the new one.
            state.recovered();
        }
        let left = state.left(now);
        let due = state.held.as_ref().is_none_or(|held| now.0 >= held.refresh_at);
        if (due || changed || left < LEAST_LIFE)
            && state.flight.is_none()
            && state.retry_at.is_none_or(|at| now.0 >= at)
        {
            state.generation = generation;
            self.launch(entry, &mut state);
        }
        let urgent = changed || left < LAST_MINUTE;
        match (&state.flight, &state.held) {
            (Some(flight), _) if urgent => Plan::Wait(flight.clone()),
            (_, Some(held)) if left >= LEAST_LIFE => Plan::Serve(held.token(now)),
            _ => Plan::Refuse(state.refusal(now.0)),
        }
    }

    fn after_wait(&self, entry: &Entry) -> Result<Token, TokenError> {
        let now = self.now();
        let state = entry.lock();
        match &state.held {
            Some(held) if held.left(now) >= LEAST_LIFE => Ok(held.token(now)),
            _ => Err(state.refusal(now.0)),
        }
    }
}

impl State {
    fn new(chance: Chance) -> Self {
        let ladder = Ladder::with_random(schedule::FETCH, move || chance.fraction());
        Self { held: None, flight: None, failures: 0, ladder, retry_at: None, problem: None, generation: 0 }
    }

    /// What went wrong before counts no more.
    fn recovered(&mut self) {
        (self.failures, self.retry_at) = (0, None);
        self.ladder.ended(Duration::MAX);
    }

    fn left(&self, now: Now) -> Duration {
        self.held.as_ref().map_or(Duration::ZERO, |held| held.left(now))
    }

    /// Why there is nothing to serve. That a token has ended is told only where waiting can help; otherwise the cause
    /// itself is what somebody must act on.
    fn refusal(&self, now: Instant) -> TokenError {
        let pause = self.retry_at.map(|at| at.saturating_duration_since(now));
        let Some(problem) = &self.problem else {
            let message = "the token source has not answered yet";
            return TokenError::new(ErrorCode::SourceUnavailable, message).after(pause);
        };
        let error = if self.held.is_some() && problem.code.retryable() {
            TokenError::new(ErrorCode::TokenExpired, format!("no new token: {problem}"))
        } else {
            problem.clone()
        };
        error.after(pause)
    }
}

#[cfg(test)]
mod tests;
