//! The connection of a direct way: straight to the gateway, or through the proxy.
use relay::dial::{Carrier, Dialer};

use super::{
    DirectUrl, Progress,
    error::{self, Stage, WayError},
};

/// Resolves and connects.
pub(super) async fn reach(dialer: &Dialer, url: &DirectUrl, progress: &Progress) -> Result<Carrier, WayError> {
    progress.at(Stage::Dns);
    let route = dialer.route(&url.host, url.port).await.map_err(error::of_reach)?;
    progress.at(if route.proxy().is_some() { Stage::Proxy } else { Stage::Tcp });
    route.connect().await.map_err(error::of_reach)
}
