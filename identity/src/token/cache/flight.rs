//! One fetch under way. However it ends, by an answer, a panic or the end of the process, its outcome is written down
//! and those who wait are told.
use std::sync::Arc;

use tokio::sync::watch;

use super::{Entry, Held, Inner, LEAST_LIFE, State};
use crate::token::{ErrorCode, Token, TokenError, schedule};

/// Lands when it is dropped.
struct Flight {
    inner: Arc<Inner>,
    entry: Arc<Entry>,
    landed: watch::Sender<bool>,
    outcome: Option<Result<Token, TokenError>>,
}

impl Inner {
    /// Begins a fetch in a task of its own.
    pub(super) fn launch(self: &Arc<Self>, entry: &Arc<Entry>, state: &mut State) {
        let (landed, receiver) = watch::channel(false);
        state.flight = Some(receiver);
        let flight = Flight { inner: self.clone(), entry: entry.clone(), landed, outcome: None };
        self.shutdown.spawn(async move {
            let stop = flight.inner.shutdown.clone();
            let outcome = tokio::select! {
                biased;
                () = stop.forced() => Err(TokenError::new(ErrorCode::SourceUnavailable, "the process is ending")),
                fetched = flight.inner.source.fetch(&flight.entry.audience) => fetched,
            };
            flight.end(outcome);
        });
    }

    fn land(&self, entry: &Entry, outcome: Result<Token, TokenError>) {
        let now = self.now();
        let outcome = outcome.and_then(|token| match token.expires.duration_since(now.1) {
            Ok(life) if life > LEAST_LIFE => Ok((token, life)),
            _ => Err(TokenError::new(ErrorCode::TokenExpired, "the source gave a token that has already expired")),
        });
        let mut state = entry.lock();
        state.flight = None;
        match outcome {
            Ok((token, life)) => {
                let hint = token.refresh.map(|wish| wish.duration_since(now.1).unwrap_or_default());
                let refresh_at = now.0 + schedule::refresh_after(life, hint, &self.chance);
                tracing::debug!(audience = entry.audience, life = life.as_secs(), "token fetched");
                state.held = Some(Held { token, received: now.0, refresh_at, dead_at: now.0 + life });
                state.recovered();
                state.problem = None;
            }
            Err(error) => {
                state.failures = state.failures.saturating_add(1);
                let failures = state.failures;
                let pause = schedule::pause_after(&error, failures, &mut state.ladder);
                state.retry_at = Some(now.0 + pause);
                tracing::warn!(
                    audience = entry.audience,
                    code = error.code.name(),
                    stage = %error.stage,
                    error = error.message,
                    failures,
                    pause = pause.as_secs_f32(),
                    left = state.left(now).as_secs(),
                    "no new token"
                );
                state.problem = Some(error);
            }
        }
    }
}

impl Flight {
    fn end(mut self, outcome: Result<Token, TokenError>) {
        self.outcome = Some(outcome);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let cut = || Err(TokenError::new(ErrorCode::SourceUnavailable, "the fetch was cut off"));
        let outcome = self.outcome.take().unwrap_or_else(cut);
        self.inner.land(&self.entry, outcome);
        self.landed.send_replace(true);
    }
}
