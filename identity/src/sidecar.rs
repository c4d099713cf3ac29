//! The sidecar: managed-identity endpoints on loopback that unmodified Azure SDKs look for.
//!
//! It serves the App Service face (`api-version=2019-08-01`), the only one that every SDK can be pointed at: a GET with a
//! secret header answers with a token for an allowed audience, fetched from the configured source through the one cache.
//! It binds loopback only, relays nothing, and says for every refusal what to change. Tokens, secret headers and queries
//! are never logged; each request ends in one access line with audience, outcome and ids.
mod answer;
mod app_service;
mod config;
mod refusal;
mod serve;

use std::{net::SocketAddr, sync::Arc};

use daemon::{
    config::{ConfigError, Loaded},
    process::{Context, StartFailure},
};
use tokio::net::TcpListener;

use self::app_service::AppService;
pub use self::{
    config::{AppServiceConfig, Config, Faces},
    refusal::Refusal,
};
use crate::{
    secret::Secret,
    token::{self, Cache, TokenError},
};

/// Shortest secret header, in characters: 128 bits as hexadecimal have 32, as base64 22.
const SHORTEST_HEADER: usize = 22;

/// A running sidecar.
#[derive(Debug)]
pub struct Running {
    /// The bound address.
    pub address: SocketAddr,
}

/// Why it could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The secret header cannot be read or is too weak.
    #[error("faces.app_service.header cannot be used")]
    Header(#[source] ConfigError),
    /// The token source cannot be used.
    #[error("source cannot be used")]
    Source(#[source] TokenError),
    /// The port cannot be bound.
    #[error("{address} cannot be bound")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
}

impl StartFailure for StartError {
    fn is_bad_config(&self) -> bool {
        !matches!(self, Self::Bind { .. })
    }
}

/// Starts a sidecar; its tasks belong to `context.shutdown`.
pub async fn start(config: Loaded<Config>, context: Context) -> Result<Running, StartError> {
    let Loaded { values, base, path } = config;
    let header = values.faces.app_service.header.read(&base).map(Secret::from).map_err(StartError::Header)?;
    if header.expose().len() < SHORTEST_HEADER {
        let key = "faces.app_service.header".to_owned();
        let message = format!("has fewer than {SHORTEST_HEADER} characters; make one with `openssl rand -hex 16`");
        return Err(StartError::Header(ConfigError::Invalid { path, key, message }));
    }
    let source = token::source(&values.source, &base).map_err(StartError::Source)?;
    let cache = Cache::new(source, context.clock.clone(), context.shutdown.clone());
    let bind = |source| StartError::Bind { address: values.listen, source };
    let listener = TcpListener::bind(values.listen).await.map_err(bind)?;
    let address = listener.local_addr().map_err(bind)?;
    for audience in &values.warm {
        cache.keep_fresh(audience);
    }
    let overview = cache.clone();
    context.status.section("tokens", move || overview.overview());
    let face = Arc::new(AppService::new(header, values, cache, &context));
    context.shutdown.spawn(serve::accept(listener, face, context.shutdown.clone()));
    tracing::info!(what = "sidecar", %address, "listening");
    Ok(Running { address })
}

#[cfg(test)]
mod tests;
