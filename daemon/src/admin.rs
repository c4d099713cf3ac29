//! The admin port: `/livez`, `/readyz` with named guards, `/statusz`, `/metrics`. Read-only; `Host` is checked;
//! health may bind any address, the rest answers only on loopback (SD-16).
use std::{net::SocketAddr, sync::Arc};

use serde::Deserialize;

use crate::{metrics::Metrics, shutdown::Shutdown};

/// The `admin:` section that every config file may have.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where it listens; default 127.0.0.1 with a port per program; port 0 lets the kernel choose.
    pub address: Option<SocketAddr>,
}

impl Default for Config {
    fn default() -> Self {
        Self { address: None }
    }
}

/// What must be done before this process can do its part. Ready when every guard was released and it is not draining.
#[derive(Debug, Clone, Default)]
pub struct Readiness {}

/// One named thing that readiness waits for; `ready()` releases it, dropping it unreleased keeps the process unready.
#[derive(Debug)]
pub struct Guard {}

impl Readiness {
    /// Adds a named guard.
    pub fn guard(&self, name: &'static str) -> Guard {
        let _ = name;
        todo!()
    }
}

impl Guard {
    /// Releases the guard.
    pub fn ready(self) {
        todo!()
    }
}

/// What `/statusz` answers with.
pub type Status = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// A bound admin port.
#[derive(Debug)]
pub struct Admin {}

impl Admin {
    /// Binds; the port is known after this.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let _ = address;
        todo!()
    }

    /// The bound address.
    pub fn address(&self) -> SocketAddr {
        todo!()
    }

    /// Serves until shutdown has ended; owned and awaited by the caller.
    pub async fn serve(self, readiness: Readiness, metrics: Metrics, status: Status, shutdown: Shutdown) {
        let _ = (readiness, metrics, status, shutdown);
        todo!()
    }
}
