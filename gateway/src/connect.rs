//! `gateway connect`.
use std::net::SocketAddr;

use daemon::{config::Loaded, process::Context};

/// The config file.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

/// It runs.
#[derive(Debug)]
pub struct Running {
    /// Bound addresses (serve: the tunnel port; connect: the faces in order).
    pub addresses: Vec<SocketAddr>,
}

/// Why it could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {}

/// Starts it; its tasks belong to `context.shutdown`.
pub async fn start(config: Loaded<Config>, context: Context) -> Result<Running, StartError> {
    let _ = (config, context);
    todo!()
}
