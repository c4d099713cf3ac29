//! The listener: the cluster side, outbound only. It holds control channels to relays, ours or Azure's, and hands what
//! comes through them to handlers: WebSocket senders and HTTP requests. `relay listen` is one user of it; its handlers
//! forward to a TCP or HTTP target (`forward`).
//!
//! Each hybrid connection has several control channels, each kept by a task (`channel`): replaced before it is old, its
//! token renewed, dialled again when it breaks. What runs does not depend on them. Everything that a relay says is
//! untrusted: where it may send us is decided by `permit`, how much at a time by [`Limits`]. When the process drains,
//! control channels take nothing new, finish what they have and are closed; what runs may finish within the grace.
mod addresses;
mod channel;
mod config;
mod forward;
mod http;
mod knock;
mod limits;
mod listener;
mod metrics;
pub(crate) mod permit;
mod ready;
mod rendezvous;

use daemon::{
    config::{ConfigError, Loaded},
    process::{Context, StartFailure},
};
use identity::tls::{TlsError, client, roots};

use self::listener::Held;
pub use self::{
    config::{Config, ConnectionConfig, Forward, HostField, HttpConfig},
    http::{BodyError, Received, RequestBody},
    knock::{Accepted, Knock, Rendezvous},
    limits::Limits,
    listener::{
        ANSWER_WITHIN, BoxError, CHANNELS, HybridConnection, Listener, Listening, OpenChannel, REQUESTS, ROTATE_AFTER,
        ResponseBody,
    },
    permit::Refused,
    rendezvous::RendezvousError,
};
use crate::dial::Dialer;

/// A running `relay listen`.
#[derive(Debug)]
pub struct Running {
    listening: Vec<Listening>,
}

impl Running {
    /// How many control channels are open now, of all hybrid connections.
    pub fn channels(&self) -> usize {
        self.listening.iter().map(|listening| listening.channels().len()).sum()
    }

    /// The hybrid connections, in the order of the configuration.
    pub fn listening(&self) -> &[Listening] {
        &self.listening
    }
}

/// Why it could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A key cannot be read or is too weak.
    #[error("the listener's configuration cannot be used")]
    Config(#[from] ConfigError),
    /// A trust section cannot be used.
    #[error("the listener's trust cannot be used")]
    Trust(#[from] TlsError),
}

impl StartFailure for StartError {
    fn is_bad_config(&self) -> bool {
        match self {
            Self::Config(_) | Self::Trust(_) => true,
        }
    }
}

/// Starts `relay listen`; its tasks belong to `context.shutdown`.
#[expect(clippy::unused_async, reason = "every component is started in the same way")]
pub async fn start(config: Loaded<Config>, context: Context) -> Result<Running, StartError> {
    let Loaded { values, base, .. } = config;
    let tls = client(roots(&values.trust, &base)?, &[b"http/1.1"]);
    let dialer = Dialer::open(&values.proxy, &values.trust, &base)?;
    let listener = Listener::new(&context, dialer, tls, &values.limits);
    let mut all = Vec::new();
    for section in &values.hybrid_connections {
        let (address, credential) = section.access().open(&base, &context)?;
        let on = HybridConnection::new(address, credential)
            .channels(section.channels)
            .rotate_after(section.rotate_after.0)
            .rendezvous_hosts(section.rendezvous_hosts.clone())
            .rendezvous_ports(section.rendezvous_ports.clone());
        all.push(forward::handlers(on, &listener, &context, section, &base)?);
    }
    // Only when everything was found valid does anything begin.
    let listening: Vec<Listening> = all.into_iter().map(|on| listener.listen(on)).collect();
    show(&context, listening.clone(), &values.hybrid_connections);
    Ok(Running { listening })
}

fn show(context: &Context, listening: Vec<Listening>, sections: &[ConnectionConfig]) {
    let forwards: Vec<Forward> = sections.iter().map(|section| section.forward.clone()).collect();
    let clock = context.clock.clone();
    context.status.section("hybrid_connections", move || {
        let now = clock.now();
        let since = |at| now.duration_since(at).unwrap_or_default().as_secs();
        let left = |at: std::time::SystemTime| at.duration_since(now).unwrap_or_default().as_secs();
        listening
            .iter()
            .zip(&forwards)
            .map(|(listening, forward)| {
                let channels: Vec<_> = listening
                    .channels()
                    .iter()
                    .map(|channel| {
                        serde_json::json!({
                            "listener": channel.id,
                            "open_seconds": since(channel.since),
                            "token_seconds_left": left(channel.token_expires),
                            "retiring": channel.retiring,
                        })
                    })
                    .collect();
                serde_json::json!({
                    "url": listening.address().to_string(),
                    "channels": channels,
                    "problem": listening.problem(),
                    "requests": listening.requests(),
                    "forward": { "websocket": forward.stream(), "http": forward.http },
                })
            })
            .collect()
    });
}

/// An error and its causes on one line.
fn explained(error: &dyn std::error::Error) -> String {
    daemon::process::explain(error).replace("\n  ", "; ")
}
