//! Renewal of a channel's token. A relay answers a good one by silence, so whether it took shows only when the token
//! before it would have ended the channel and did not.
use std::{future::pending, time::Duration};

use tokio::time::{Instant, sleep_until};

use crate::{listen::Held, sender::Minted};

/// Part of a token's life after which it is renewed: early enough for a few failures before its end.
const RENEW_AT: f64 = 0.7;

/// Part of the time until renewal that jitter may take off, so that channels opened together do not renew together.
const JITTER: f64 = 0.1;

/// Pause after a renewal that failed, and the least after any: a token that nothing renews, as one that is written in a
/// join string, is no fresher the next time.
const RENEW_AGAIN: Duration = Duration::from_secs(30);

/// How long relays let a token live beyond its end, because SDKs renew at the end and not before: five minutes. One more
/// is for clocks that differ.
const GRACE: Duration = Duration::from_secs(360);

/// When the token of one channel is renewed, and whether the last renewal is proven.
#[derive(Debug)]
pub(super) struct Renewal {
    expires: Instant,
    /// Nothing while a fresh one is waited for.
    next: Option<Instant>,
    /// When a channel that still lives proves that the renewal took.
    proof: Option<Instant>,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// A fresh token. Nothing more is due for one until it was sent or could not be had.
    Renew,
    /// Nothing: the renewal before took.
    Proven,
}

impl Renewal {
    pub(super) fn new(held: &Held, token: &Minted) -> Self {
        let left = token.expires.duration_since(held.shared.context.clock.now()).unwrap_or_default();
        let now = Instant::now();
        let early = 1.0 - JITTER * identity::chance::Chance::default().fraction();
        Self { expires: now + left, next: Some(now + left.mul_f64(RENEW_AT * early)), proof: None }
    }

    /// Waits for what is due next. Cancel-safe.
    pub(super) async fn due(&mut self) -> Due {
        match (self.proof, self.next) {
            (Some(proof), next) if next.is_none_or(|next| proof <= next) => {
                sleep_until(proof).await;
                self.proof = None;
                Due::Proven
            }
            (_, Some(next)) => {
                sleep_until(next).await;
                self.next = None;
                Due::Renew
            }
            (_, None) => pending().await,
        }
    }

    /// A fresh token was sent.
    pub(super) fn sent(&mut self, held: &Held, token: &Minted) {
        // A proof that is still owed is the earlier token's: it stays owed.
        let proof = self.proof.unwrap_or(self.expires + GRACE);
        let renewed = Self::new(held, token);
        *self = Self { proof: Some(proof), next: renewed.next.max(Some(Instant::now() + RENEW_AGAIN)), ..renewed };
    }

    /// None could be had.
    pub(super) fn failed(&mut self) {
        self.next = Some(Instant::now() + RENEW_AGAIN);
    }

    /// Whether a renewal is yet to be proven.
    pub(super) fn is_owed(&self) -> bool {
        self.proof.is_some()
    }

    /// Whether a channel that ends now shows that its renewal did not take: the token before it is at its end.
    pub(super) fn is_refuted(&self) -> bool {
        self.proof.is_some_and(|proof| proof <= Instant::now() + GRACE)
    }
}
