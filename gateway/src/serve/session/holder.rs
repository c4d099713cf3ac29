//! Who holds a tunnel, and when the whole of it must end before its time: whoever holds it is on the deny list, its client
//! certificate is vouched for no longer, or the proofs of everybody who ever used it have ended long ago, so that it only
//! takes up a place.
//!
//! A tunnel takes up a place of its actor's; while none is bound, of the first who uses it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use identity::principal::Principal;
use proto::tunnel::failure::Failure;
use rustls::pki_types::CertificateDer;

use super::{
    LAST_WORDS, Tunnel,
    caller::{LEEWAY, is_same},
};
use crate::serve::limits::TunnelPlace;

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

    /// Somebody has proven who they are, until then.
    pub(super) fn proven(&self, expires: SystemTime) {
        let mut until = self.proven_until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = (*until).max(Some(expires));
    }
}

/// Whose place among the tunnels it takes up.
#[derive(Debug, Default)]
pub(super) struct Holding(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    by: Option<Holder>,
    /// What the last one was told who could not hold it.
    refused: Option<String>,
}

#[derive(Debug)]
struct Holder {
    /// As they have proven it last.
    who: Principal,
    /// Nobody else has used the tunnel.
    alone: bool,
    _place: TunnelPlace,
}

impl Holding {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// Makes sure that it has a place: of the bound actor's, or of this one's who uses it.
    ///
    /// # Errors
    /// `LimitReached`, or why whoever is denied is refused; it may be tried again.
    pub(super) fn hold(&self, user: &Principal) -> Result<(), Failure> {
        let bound = self.binding.actor();
        let who = bound.as_deref().unwrap_or(user);
        let mut held = self.holding.held();
        match &mut held.by {
            Some(holder) if is_same(&holder.who, who) => {
                if holder.who != *who {
                    holder.who = who.clone();
                }
                return Ok(());
            }
            Some(holder) if bound.is_none() => {
                holder.alone = false;
                return Ok(());
            }
            _ => {}
        }
        let gateway = &self.gateway;
        match gateway.not_denied(who).and_then(|()| gateway.ledger.tunnel(who)) {
            Ok(place) => {
                held.by = Some(Holder { who: who.clone(), alone: true, _place: place });
                Ok(())
            }
            Err(failure) => {
                held.refused = Some(failure.message.clone());
                Err(failure)
            }
        }
    }

    /// Why it ends if it got no place in time.
    pub(super) fn unheld(&self) -> String {
        match &self.holding.held().refused {
            Some(reason) => format!("nobody had a place for it: {reason}"),
            None => "nobody proved who they are".to_owned(),
        }
    }

    /// Whether its actor, or the only one who has used it, is on the deny list, and for what.
    fn denied(&self) -> Option<String> {
        let alone = || self.holding.held().by.as_ref().filter(|holder| holder.alone).map(|holder| holder.who.clone());
        let holder = self.binding.actor().map(|actor| Principal::clone(&actor)).or_else(alone)?;
        self.gateway.not_denied(&holder).err().map(|failure| failure.message)
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
