//! Bounds of a listener, whatever relays ask of it.
use daemon::config::Size;
use schemars::JsonSchema;
use serde::Deserialize;

/// Bounds for all hybrid connections of a listener together. Where there are several, half of each is divided among them, so
/// that no relay takes everything.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Dials to relays for rendezvous, and to targets for these, at a time; default 64.
    pub dials: usize,
    /// Rendezvous that wait for one of those dials; default 256. More are dropped, and their senders learn it by the
    /// relay's timeout.
    pub dials_waiting: usize,
    /// WebSocket senders that are joined with a target at a time; default 4096. More are dropped. Each holds two sockets:
    /// with one gateway behind it a listener carries some tunnels for each connector, and a relay that asks for more
    /// than this is not to be obeyed.
    pub joined: usize,
    /// Memory for large reads of all that are joined; default 256Mi. Beyond it they go on with small
    /// reads. Of several hybrid connections one has a quarter at most.
    pub buffer_memory: Size,
}

impl Default for Limits {
    fn default() -> Self {
        Self { dials: 64, dials_waiting: 256, joined: 4096, buffer_memory: Size(256 * 1024 * 1024) }
    }
}
