//! What `relay listen` does with what comes: WebSocket senders are joined with a TCP target (`stream`), HTTP requests
//! are put to an HTTP target (`web`).
mod head;
mod pool;
mod proxy_v2;
mod stream;
mod web;

use std::{path::Path, sync::Arc};

use daemon::{config::ConfigError, process::Context};

use self::{stream::Stream, web::Web};
use super::{
    HybridConnection, Listener, StartError,
    config::{ConnectionConfig, site::Site},
};
use crate::splice::Buffers;

/// Sets the handlers that a section asks for.
pub(super) fn handlers(
    on: HybridConnection,
    listener: &Listener,
    context: &Context,
    section: &ConnectionConfig,
    base: &Path,
    buffers: Buffers,
) -> Result<HybridConnection, StartError> {
    let mut on = on;
    let forward = &section.forward;
    if let Some(target) = forward.stream() {
        let stream = Arc::new(Stream {
            target: target.to_owned(),
            is_tunnel: forward.tunnel.is_some(),
            proxy_protocol: forward.proxy_protocol,
            listener: listener.clone(),
            buffers,
            shutdown: context.shutdown.clone(),
        });
        on = on.on_websocket(move |knock| stream.clone().let_in(knock));
    }
    if let Some(url) = &forward.http {
        let site: Site = url.parse().map_err(|message: String| ConfigError::Invalid {
            path: base.to_owned(),
            key: "forward.http".to_owned(),
            message,
        })?;
        let web = Arc::new(Web::new(site, &section.http, on.is_tls(), base)?);
        context.shutdown.spawn(web.clone().sweep(context.shutdown.clone()));
        on = on.on_request(move |request| web.clone().answer(request));
    }
    Ok(on.requests(section.http.requests).answer_within(section.http.answer_within.0))
}
