//! When a whole tunnel must end before its time: whoever holds it is on the deny list, its client certificate is vouched
//! for no longer, or the proofs of everybody who ever used it have ended long ago, so that it only takes up a place.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rustls::pki_types::CertificateDer;

use super::{
    LAST_WORDS, Tunnel,
    caller::{Caller, LEEWAY},
};

/// Longest sleep before the ends of proofs are looked at again: the wall clock may step.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What a tunnel's right to be there rests on.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// The client certificate's chain, if the session showed one.
    chain: Option<Vec<CertificateDer<'static>>>,
    /// The latest end of any proof that was shown on it.
    proven_until: Mutex<Option<SystemTime>>,
}

impl Standing {
    /// Of a tunnel whose session showed this chain, or none.
    pub(super) fn new(chain: Option<Vec<CertificateDer<'static>>>) -> Self {
        Self { chain, proven_until: Mutex::default() }
    }

    /// Somebody has used the tunnel.
    pub(super) fn used_by(&self, caller: &Caller) {
        let expires = caller.actor.expires().max(caller.subject.expires());
        let mut until = self.proven_until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = (*until).max(Some(expires));
    }
}

/// Resolves when the tunnel must end, with the reason.
pub(super) async fn lost(tunnel: &Tunnel) -> String {
    let gateway = &tunnel.gateway;
    let mut policies = gateway.policies.clone();
    let (mut clients, mut actors) = (gateway.shown.clients_changed(), tunnel.binding.changes());
    loop {
        if let Some(reason) = tunnel.denied() {
            // Its streams end by themselves, and get to say why.
            tokio::time::sleep(LAST_WORDS).await;
            return reason;
        }
        if let Some(chain) = &tunnel.standing.chain
            && !gateway.shown.tls().vouches_for(chain, gateway.context.clock.now())
        {
            return "its client certificate is vouched for no longer".to_owned();
        }
        let Some(left) = tunnel.left() else {
            return "the proofs of everybody who used it have ended".to_owned();
        };
        tokio::select! {
            biased;
            Ok(()) = policies.changed() => {}
            Ok(()) = clients.changed() => {}
            Ok(()) = actors.changed() => {}
            () = tokio::time::sleep(left.min(LOOK_AGAIN)) => {}
        }
    }
}

impl Tunnel {
    /// Whether its actor is on the deny list, and for what.
    fn denied(&self) -> Option<String> {
        let actor = self.binding.actor()?;
        let policy = self.gateway.policies.borrow().clone();
        policy.deny().find(&(&*actor).into()).map(|denied| format!("{actor} {}", denied.text()))
    }

    /// How long the proofs shown on it reach, and the time that streams may outlive them.
    fn left(&self) -> Option<Duration> {
        let until = *self.standing.proven_until.lock().unwrap_or_else(PoisonError::into_inner);
        // Until somebody has proven something, another deadline counts.
        let Some(until) = until else { return Some(LOOK_AGAIN) };
        let end = until + self.gateway.limits.max_after_expiry.0.max(LEEWAY);
        end.duration_since(self.gateway.context.clock.now()).ok().filter(|left| !left.is_zero())
    }
}
