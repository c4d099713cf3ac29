//! `relay serve`: the rendezvous server.
use std::net::SocketAddr;

use daemon::{config::Loaded, process::Context};

/// `relay.yaml`.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

/// A running relay.
#[derive(Debug)]
pub struct Running {
    /// Bound addresses, in the order of `listen:`.
    pub addresses: Vec<SocketAddr>,
}

/// Why it could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {}

/// Starts a relay; its tasks belong to `context.shutdown`.
pub async fn start(config: Loaded<Config>, context: Context) -> Result<Running, StartError> {
    let _ = (config, context);
    todo!()
}
