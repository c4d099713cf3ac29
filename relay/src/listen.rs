//! `relay listen`: the cluster side, outbound only.
use daemon::{config::Loaded, process::Context};

/// `listener.yaml`.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

/// A running listener.
#[derive(Debug)]
pub struct Running {}

/// Why it could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {}

/// Starts a listener; its tasks belong to `context.shutdown`.
pub async fn start(config: Loaded<Config>, context: Context) -> Result<Running, StartError> {
    let _ = (config, context);
    todo!()
}
