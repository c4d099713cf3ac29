//! What the relay tells on `/events` about its listeners, and logs: names and fields in one place.
use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use daemon::{admin::Events, clock::timestamp};
use serde_json::Value;
use tokio::time::Instant;

use super::{entities::Entity, listeners::Listener, refusal::Refusal};

/// Events about refused listeners in a minute, from all sources together: a flood from many addresses must not wash
/// everything else out of the history.
const REFUSALS_TOLD: u32 = 60;

/// The minute that it counts for.
const MINUTE: Duration = Duration::from_secs(60);

/// Tells. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Teller {
    events: Events,
    refusals: Arc<Mutex<Refusals>>,
}

/// What was told of refusals since a minute began.
#[derive(Debug)]
struct Refusals {
    since: Instant,
    told: u32,
    /// Not told since the last that was.
    untold: u32,
}

impl Teller {
    pub(crate) fn new(events: &Events) -> Self {
        let refusals = Refusals { since: Instant::now(), told: 0, untold: 0 };
        Self { events: events.clone(), refusals: Arc::new(Mutex::new(refusals)) }
    }

    pub(crate) fn connected(&self, entity: &Entity, listener: &Listener) {
        tracing::info!(entity = entity.name, listener = listener.id, "listener connected");
        self.events.emit("listener_connected", about(entity, listener));
    }

    /// `reason` is the outcome that the access line names.
    pub(crate) fn disconnected(&self, entity: &Entity, listener: &Listener, reason: &'static str, fault: &'static str) {
        tracing::info!(entity = entity.name, listener = listener.id, reason, "listener disconnected");
        let why = [("reason", reason.into()), ("fault", fault.into())];
        self.events.emit("listener_disconnected", about(entity, listener).into_iter().chain(why));
    }

    /// Somebody new may be fine, and may hold a key that was stolen.
    pub(crate) fn new_address(&self, entity: &Entity, listener: &Listener) {
        tracing::warn!(
            entity = entity.name,
            listener = listener.id,
            address = %address(listener),
            holder = listener.record.holder,
            "listener from an address that none came from before"
        );
        self.events.emit("listener_new_address", about(entity, listener));
    }

    /// All places were taken, and this listener's went to one at another address, which had fewer.
    pub(crate) fn displaced(&self, entity: &Entity, listener: &Listener, by: IpAddr) {
        tracing::warn!(
            entity = entity.name,
            listener = listener.id,
            address = %address(listener),
            %by,
            "listener displaced: more want to listen than may, and its address has most of the places"
        );
        self.events
            .emit("listener_displaced", about(entity, listener).into_iter().chain([("by", by.to_string().into())]));
    }

    /// `count` is how many refusals this source had for this hybrid connection: told are the first, the tenth, and so on.
    pub(crate) fn refused(&self, entity: &str, source: IpAddr, refusal: Refusal, count: u32) {
        self.about_refusal("listener_refused", entity, source, refusal, count);
    }

    /// The same for one that is parked.
    pub(crate) fn parked(&self, entity: &str, source: IpAddr, refusal: Refusal, count: u32) {
        self.about_refusal("listener_parked", entity, source, refusal, count);
    }

    fn about_refusal(&self, kind: &'static str, entity: &str, source: IpAddr, refusal: Refusal, count: u32) {
        let Some(untold) = self.refusals.lock().unwrap_or_else(PoisonError::into_inner).tell(count) else { return };
        let address = source.to_canonical().to_string();
        tracing::warn!(what = kind, entity, address, code = refusal.name(), count, untold, "listener refused");
        self.events.emit(
            kind,
            [
                ("entity", entity.into()),
                ("address", address.into()),
                ("code", refusal.name().into()),
                ("count", count.into()),
                ("untold", untold.into()),
            ],
        );
    }

    pub(crate) fn unresponsive(&self, entity: &Entity, listener: &Listener, passed_over: Duration) {
        let seconds = passed_over.as_secs();
        tracing::warn!(
            entity = entity.name,
            listener = listener.id,
            passed_over_s = seconds,
            "listener does not answer: others are asked before it"
        );
        let more = [("failed", listener.record.failed().into()), ("passed_over_s", seconds.into())];
        self.events.emit("listener_unresponsive", about(entity, listener).into_iter().chain(more));
    }

    pub(crate) fn responsive(&self, entity: &Entity, listener: &Listener) {
        tracing::info!(entity = entity.name, listener = listener.id, "listener answers again");
        self.events.emit("listener_responsive", about(entity, listener));
    }
}

impl Refusals {
    /// Whether this one is told, and how many were not since the last.
    fn tell(&mut self, count: u32) -> Option<u32> {
        let now = Instant::now();
        if now.saturating_duration_since(self.since) >= MINUTE {
            (self.since, self.told) = (now, 0);
        }
        let is_round = count > 0 && 10_u32.pow(count.ilog10()) == count;
        if !is_round || self.told >= REFUSALS_TOLD {
            self.untold = self.untold.saturating_add(1);
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.untold))
    }
}

fn about(entity: &Entity, listener: &Listener) -> [(&'static str, Value); 5] {
    [
        ("entity", entity.name.as_str().into()),
        ("listener", listener.id.as_str().into()),
        ("address", address(listener).to_string().into()),
        ("holder", listener.record.holder.as_str().into()),
        ("since", timestamp(listener.record.since).into()),
    ]
}

fn address(listener: &Listener) -> IpAddr {
    listener.remote.ip().to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn refusals_are_told_one_in_ten_and_so_many_a_minute() {
        let mut refusals = Refusals { since: Instant::now(), told: 0, untold: 0 };
        let told: Vec<u32> = (1..=1000).filter(|count| refusals.tell(*count).is_some()).collect();
        assert_eq!(told, [1, 10, 100, 1000]);
        let more = (0..1000).filter(|_| refusals.tell(1).is_some()).count();
        assert_eq!(more, 56);
        tokio::time::advance(MINUTE).await;
        assert_eq!(refusals.tell(1), Some(944));
    }
}
