//! Verification of JWTs by named authenticators (SD-7): the key decides which one vouches, never the issuer string.
//!
//! A token is accepted when a key of an authenticator verifies its signature *and* that authenticator's rules accept its
//! claims; everything else is refused with the reason of the authenticator that came furthest. Acceptance is kept by the
//! token's SHA-256 until the token ends or a key set changes. Nothing taken from a token is ever logged here.
mod audience;
mod claims;
mod config;
mod error;
mod keys;
mod signer;
mod source;
mod verdicts;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use daemon::{clock::SharedClock, shutdown::Shutdown};
use futures_util::future;
use tokio_util::sync::DropGuard;

use self::{claims::Parts, config::Rules, source::KeySource, verdicts::Verdicts};
pub use self::{
    config::{AuthenticatorConfig, JwksConfig},
    error::JwtError,
    signer::Signer,
};
use crate::principal::{Principal, Proof};

/// Longest token that is looked at. Entra's stay under 8 KiB with two hundred groups.
pub const MAX_TOKEN: usize = 16 * 1024;

/// All authenticators of a process, with the verdict cache (by SHA-256 of the token, until expiry or reload).
#[derive(Debug)]
pub struct Authenticators {
    all: Vec<Arc<Authenticator>>,
    verdicts: Verdicts,
    /// Counts changes of any key set; verdicts of another generation are void.
    generation: Arc<AtomicU64>,
    clock: SharedClock,
}

#[derive(Debug)]
struct Authenticator {
    /// Principals share it, so that one can be told from those of another authenticator of the same name.
    name: Arc<str>,
    config: AuthenticatorConfig,
    rules: Rules,
    source: Arc<KeySource>,
    /// Ends the task that keeps its keys.
    _stop: DropGuard,
}

impl Authenticators {
    /// Builds them; keys load and reload in tasks owned by `shutdown`. `base` is what relative paths mean. Key files
    /// must be there; key URLs are asked in the background, and nobody waits for them here.
    pub async fn start(
        config: &BTreeMap<String, AuthenticatorConfig>,
        base: &Path,
        clock: SharedClock,
        shutdown: &Shutdown,
    ) -> Result<Self, StartError> {
        let none = Self { all: Vec::new(), verdicts: Verdicts::default(), generation: Arc::default(), clock };
        none.changed(config, base, shutdown).await
    }

    /// Builds them anew for another configuration. One that is the same keeps its keys, and its principals are still
    /// vouched for; one that differs is another one, though it may have the same name.
    #[expect(clippy::unused_async, reason = "spawns tasks, so it must be called inside a runtime; async says so")]
    pub async fn changed(
        &self,
        config: &BTreeMap<String, AuthenticatorConfig>,
        base: &Path,
        shutdown: &Shutdown,
    ) -> Result<Self, StartError> {
        let (generation, clock) = (self.generation.clone(), self.clock.clone());
        let mut all = Vec::with_capacity(config.len());
        for (name, config) in config {
            let same = |known: &&Arc<Authenticator>| *known.name == **name && known.config == *config;
            if let Some(known) = self.all.iter().find(same) {
                all.push(known.clone());
                continue;
            }
            let fault = |message| StartError::Config { name: name.clone(), message };
            if name.is_empty()
                || name.contains('/')
                || name.chars().any(char::is_control)
                || name == crate::tls::peer::AUTHENTICATOR
            {
                return Err(fault(
                    "a name is not empty, has no `/`, and is not `mtls`, which client certificates use".into(),
                ));
            }
            let rules = Rules::new(config).map_err(fault)?;
            let stop = shutdown.drain_token();
            let source = KeySource::start(name, config, base, generation.clone(), clock.clone(), shutdown, &stop);
            all.push(Arc::new(Authenticator {
                name: name.as_str().into(),
                config: config.clone(),
                rules,
                source: source.map_err(fault)?,
                _stop: stop.drop_guard(),
            }));
        }
        Ok(Self { all, verdicts: Verdicts::default(), generation, clock })
    }

    /// Whether a principal was vouched for by one of these.
    pub fn vouch_for(&self, principal: &Principal) -> bool {
        self.all.iter().any(|authenticator| Arc::ptr_eq(&authenticator.name, &principal.authenticator))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Verifies a bearer token (without the `Bearer ` prefix). Waits at most five seconds, and only when the keys for it
    /// have to be fetched first.
    pub async fn verify(&self, token: &str) -> Result<Principal, JwtError> {
        if token.len() > MAX_TOKEN {
            return Err(JwtError::TooLong);
        }
        let hash = sha256(token.as_bytes());
        let generation = self.generation.load(Ordering::Acquire);
        if let Some(principal) = self.verdicts.find(&hash, generation, self.clock.now()) {
            return Ok(principal);
        }
        let parts = Parts::parse(token)?;
        let (principal, until) = match self.judge(&parts) {
            Err(JwtError::UnknownKey) => {
                self.refetch_for(&parts).await;
                self.judge(&parts).map_err(|error| self.explain_unknown_key(&parts, error))?
            }
            decided => decided?,
        };
        // The generation from before: had a key set changed meanwhile, the verdict would not be kept.
        self.verdicts.keep(hash, generation, principal.clone(), until);
        Ok(principal)
    }

    fn judge(&self, parts: &Parts<'_>) -> Result<(Principal, SystemTime), JwtError> {
        let mut refusal = JwtError::Algorithm;
        for authenticator in &self.all {
            match authenticator.judge(parts, self.clock.now()) {
                Ok(accepted) => return Ok(accepted),
                Err(error) if progress(error) > progress(refusal) => refusal = error,
                Err(_) => {}
            }
        }
        Err(refusal)
    }

    /// Has keys fetched where the token claims to come from. The claim is a hint where to look, and nothing more.
    async fn refetch_for(&self, parts: &Parts<'_>) {
        future::join_all(self.claimed(parts).map(|authenticator| authenticator.source.refetch())).await;
    }

    fn claimed<'a>(&'a self, parts: &'a Parts<'_>) -> impl Iterator<Item = &'a Arc<Authenticator>> {
        let issuer = parts.claims.get("iss").and_then(serde_json::Value::as_str);
        self.all.iter().filter(move |authenticator| Some(authenticator.rules.issuer.as_str()) == issuer)
    }

    fn explain_unknown_key(&self, parts: &Parts<'_>, error: JwtError) -> JwtError {
        let keyless = |authenticator: &Arc<Authenticator>| authenticator.source.keys().len() == 0;
        if error == JwtError::UnknownKey && self.claimed(parts).any(keyless) {
            JwtError::KeysUnavailable
        } else {
            error
        }
    }
}

impl Authenticator {
    fn judge(&self, parts: &Parts<'_>, now: SystemTime) -> Result<(Principal, SystemTime), JwtError> {
        if !self.rules.algorithms.contains(&parts.algorithm) {
            return Err(JwtError::Algorithm);
        }
        let keys = self.source.keys();
        let mut refusal = JwtError::UnknownKey;
        let signed = keys.candidates(parts.key_id.as_deref(), parts.algorithm).find(|(_, key)| {
            refusal = JwtError::Signature;
            let message = parts.message.as_bytes();
            jsonwebtoken::crypto::verify(parts.signature, message, key, parts.algorithm).unwrap_or(false)
        });
        let Some((key_id, _)) = signed else {
            // Without a key id, a failed signature may just mean that the right key is not here yet.
            return Err(if parts.key_id.is_none() { JwtError::UnknownKey } else { refusal });
        };
        let judged = parts.judge(&self.rules, now)?;
        let principal = Principal {
            authenticator: self.name.clone(),
            subject: judged.subject.into(),
            groups: judged.groups.into(),
            roles: judged.roles.into(),
            scopes: judged.scopes.into(),
            claims: judged.claims.into(),
            proof: Proof {
                token_id: judged.token_id.map(Into::into),
                // The key's own name first: whoever has stolen a key may leave its name out of the token.
                key_id: key_id.or(parts.key_id.as_deref()).map(Into::into),
                serial: None,
            },
            expires: judged.expires,
        };
        Ok((principal, judged.expires + self.rules.leeway))
    }
}

/// How far a token came before it was refused: the reason of the authenticator that nearly accepted it is the one that
/// helps.
fn progress(error: JwtError) -> u8 {
    match error {
        JwtError::Algorithm => 0,
        JwtError::UnknownKey => 1,
        JwtError::Signature => 2,
        JwtError::Type => 3,
        JwtError::IssuerMissing | JwtError::IssuerType | JwtError::Issuer => 4,
        JwtError::AudienceMissing | JwtError::AudienceType | JwtError::Audience => 5,
        _ => 6,
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    hash
}

/// Whether a token names this audience, **without verifying it**: for telling people where our own tokens are good.
pub fn unverified_is_for(token: &str, audience: &str) -> bool {
    claims::unverified_is_for(token, audience)
}

/// Reads `exp` of a token **without verifying it**, for scheduling renewals of our own tokens.
pub fn unverified_expiry(token: &str) -> Option<SystemTime> {
    claims::unverified_expiry(token)
}

/// Why authenticators could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting cannot work.
    #[error("authenticator {name}: {message}")]
    Config {
        /// Which.
        name: String,
        /// What and how to mend it.
        message: String,
    },
}

#[cfg(test)]
mod tests;
