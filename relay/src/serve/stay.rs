//! Who is inside by which grant, so that a reload can ask each of them again.
//!
//! Whoever was admitted holds a [`Stay`] for as long as the connection, request or rendezvous lasts. It ends from outside
//! in two ways: the hybrid connection is removed or disabled, or the grant no longer holds. A token that merely runs out
//! ends no stay: that is the business of the control channel.
//!
//! Nobody slips through between a check and a reload: a stay is entered first and its grant compared with what is in
//! force after that, while a reload puts the new in force first and looks at the stays after that.
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio_util::sync::CancellationToken;

use super::{
    authorize::Grant,
    entities::{Entity, Settings},
    refusal::Refusal,
};

/// Everybody inside one hybrid connection.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    inside: Mutex<HashMap<u64, Arc<Guest>>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Guest {
    grant: Mutex<Arc<Grant>>,
    over: CancellationToken,
    why: OnceLock<Refusal>,
}

/// The right to be inside; leaving is dropping it.
#[derive(Debug)]
pub(crate) struct Stay {
    entity: Arc<Entity>,
    number: u64,
    guest: Arc<Guest>,
}

/// Why a stay is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// The hybrid connection was removed or disabled.
    Removed,
    /// The grant no longer holds; a new request would be told this.
    Revoked(Refusal),
}

impl Over {
    /// Stable name for access lines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Removed => "entity_removed",
            Self::Revoked(_) => "revoked",
        }
    }

    /// What a peer is told that has a WebSocket: close code and text.
    pub(crate) fn close(self) -> (u16, &'static str) {
        match self {
            Self::Removed => (1001, "EntityRemoved: the endpoint was removed or disabled"),
            Self::Revoked(refusal) => (1008, refusal.text()),
        }
    }

    /// What a peer is told that still waits for an answer.
    pub(crate) fn refusal(self) -> Refusal {
        match self {
            Self::Removed => Refusal::EntityUnknown,
            Self::Revoked(refusal) => refusal,
        }
    }
}

impl Stay {
    /// Enters somebody who was just checked.
    pub(crate) fn begin(entity: Arc<Entity>, grant: Grant) -> Result<Self, Refusal> {
        let guest =
            Guest { grant: Mutex::new(Arc::new(grant)), over: entity.closed.child_token(), why: OnceLock::new() };
        let number = entity.guests.next.fetch_add(1, Relaxed);
        let stay = Self { entity, number, guest: Arc::new(guest) };
        stay.entity.guests.inside().insert(number, stay.guest.clone());
        stay.confirm().map(|()| stay)
    }

    /// Where.
    pub(crate) fn entity(&self) -> &Arc<Entity> {
        &self.entity
    }

    /// By what.
    pub(crate) fn grant(&self) -> Arc<Grant> {
        self.guest.grant().clone()
    }

    /// Goes on by another grant, which was just checked.
    pub(crate) fn renew(&self, grant: Grant) -> Result<(), Refusal> {
        *self.guest.grant() = Arc::new(grant);
        self.confirm()
    }

    /// Resolves when it is over.
    pub(crate) async fn over(&self) -> Over {
        self.guest.over.cancelled().await;
        // Both may have come at once; a grant means nothing where there is no entity.
        match self.guest.why.get() {
            Some(refusal) if !self.entity.closed.is_cancelled() => Over::Revoked(*refusal),
            _ => Over::Removed,
        }
    }

    /// A reload between the check and now has not seen this stay.
    fn confirm(&self) -> Result<(), Refusal> {
        let (grant, settings) = (self.grant(), self.entity.settings());
        if grant.generation == settings.permits.generation { Ok(()) } else { grant.check_again(&settings) }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.entity.guests.inside().remove(&self.number);
    }
}

impl Guests {
    /// Drops those whose grant no longer holds; gives how many.
    pub(crate) fn ask_again(&self, settings: &Settings) -> usize {
        let guests: Vec<_> = self.inside().values().cloned().collect();
        let refused = |guest: &&Arc<Guest>| {
            let grant = guest.grant().clone();
            grant.check_again(settings).map_err(|refusal| guest.drop_by(refusal)).is_err()
        };
        guests.iter().filter(refused).count()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.inside().len()
    }

    fn inside(&self) -> MutexGuard<'_, HashMap<u64, Arc<Guest>>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    fn drop_by(&self, refusal: Refusal) {
        // The first reason stays.
        let _ = self.why.set(refusal);
        self.over.cancel();
    }

    fn grant(&self) -> MutexGuard<'_, Arc<Grant>> {
        self.grant.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
