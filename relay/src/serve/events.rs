//! What the relay tells on `/events` about its listeners, and logs: names and fields in one place.
use std::{net::IpAddr, time::Duration};

use daemon::{admin::Events, clock::timestamp};
use serde_json::Value;

use super::{entities::Entity, listeners::Listener};

/// Tells. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Teller {
    events: Events,
}

impl Teller {
    pub(crate) fn new(events: &Events) -> Self {
        Self { events: events.clone() }
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
