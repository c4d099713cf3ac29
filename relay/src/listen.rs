//! The listener: the cluster side, outbound only. It holds control channels to relays, ours or Azure's, and hands what
//! comes through them to handlers: WebSocket senders and HTTP requests. `relay listen` is one user of it; its handlers
//! forward to a TCP or HTTP target (`forward`).
//!
//! Each hybrid connection has several control channels, each kept by a task (`channel`): replaced before it is old, its
//! token renewed, dialled again when it breaks. What runs does not depend on them. Everything that a relay says is
//! untrusted: where it may send us is decided by `permit`, how much at a time by [`Limits`]. When the process drains,
//! control channels take nothing new, finish what they have and are closed; what runs may finish within the grace.
//!
//! # In a program of one's own
//!
//! A program gives a [`Listener`] the hybrid connections and their handlers. It needs nothing else of this crate: the
//! relay may as well be Azure Relay.
//!
//! ```
//! use std::{path::Path, time::Duration};
//!
//! use bytes::Bytes;
//! use daemon::process::Context;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use identity::tls::{self, Trust};
//! use relay::{
//!     dial::{Dialer, ProxyConfig},
//!     listen::{HybridConnection, Knock, Limits, Listener, Received, RequestBody},
//!     sender::{Credential, Join},
//! };
//!
//! /// A WebSocket sender waits. Bytes that it sends come back to it.
//! async fn echo(knock: Knock) {
//!     if knock.headers().find("Origin").is_some() {
//!         // Whether it can still be told matters to nobody but its access line.
//!         let _ = knock.reject(403, "No browsers, please").await;
//!         return;
//!     }
//!     let Ok(accepted) = knock.accept(None).await else { return };
//!     let (mut read, mut write) = tokio::io::split(accepted.into_stream());
//!     if tokio::io::copy(&mut read, &mut write).await.is_ok() {
//!         // Our direction ends as well, with a Close.
//!         let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
//!     }
//! }
//!
//! /// An HTTP request. Any `http_body::Body` can be the answer's; a stream is sent on piece by piece.
//! async fn hello(request: Request<RequestBody>) -> Response<Full<Bytes>> {
//!     let asked = request.extensions().get::<Received>().map(|received| received.below.to_string());
//!     Response::new(Full::from(format!("You asked for {}", asked.unwrap_or_default())))
//! }
//!
//! async fn listen(context: &Context, join: Join, trust: &Trust) -> Result<(), Box<dyn std::error::Error>> {
//!     let here = Path::new(".");
//!     let dialer = Dialer::open(&ProxyConfig::FromEnvironment, trust, here)?;
//!     let tls = tls::client(tls::roots(trust, here)?, &[b"http/1.1"]);
//!     let listener = Listener::new(context, dialer, tls, &Limits::default());
//!     let credential = Credential::from(join.login);
//!     let on = HybridConnection::new(join.address, credential).channels(2).on_websocket(echo).on_request(hello);
//!     let _listening = listener.listen(on);
//!     Ok(())
//! }
//! # use relay::sender::{Request as Ask, Sender};
//! # use std::os::unix::fs::PermissionsExt as _;
//! # use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # identity::tls::install_provider();
//! # let key = "a2V5LW9mLWF0LWxlYXN0LTEyOC1iaXRzLWxvbmc=";
//! # let folder = tempfile::tempdir()?;
//! # let file = |name: &str, text: &str| -> std::io::Result<std::path::PathBuf> {
//! #     let path = folder.path().join(name);
//! #     std::fs::write(&path, text)?;
//! #     std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
//! #     Ok(path)
//! # };
//! # file("key", key)?;
//! # let config = "{ listen: [{ address: 127.0.0.1:0 }], namespace: 127.0.0.1, entities: { e: { rules: {
//! #     both: { rights: [listen, send], keys: [{ file: key }] } } } } }";
//! # let serving = Context::new("relay");
//! # let config = daemon::config::load(&file("relay.yaml", config)?, &[])?;
//! # let relay = relay::serve::start(config, serving.clone()).await?.addresses[0];
//! # let join = || -> Result<Join, Box<dyn std::error::Error>> {
//! #     Ok(Join {
//! #         address: format!("ws://{relay}/e").parse()?,
//! #         login: relay::sender::JoinLogin::Key { rule: "both".into(), key: identity::secret::Secret::new(key) },
//! #     })
//! # };
//! # let (context, trust) = (Context::new("example"), Trust { system: false, files: Vec::new() });
//! # listen(&context, join()?, &trust).await?;
//! # let sender = Sender::new(Dialer::default(), tls::client(tls::roots(&trust, Path::new("."))?, &[]));
//! # while !context.readiness.is_ready() {
//! #     tokio::time::sleep(Duration::from_millis(5)).await;
//! # }
//! # let credential = Credential::from(join()?.login);
//! # let mut stream = sender.dial(&join()?.address, &credential, Ask::default()).await?.stream;
//! # stream.write_all(b"hello").await?;
//! # stream.shutdown().await?;
//! # let mut answer = Vec::new();
//! # stream.read_to_end(&mut answer).await?;
//! # assert_eq!(answer, b"hello");
//! # context.shutdown.run(Duration::from_secs(5)).await;
//! # serving.shutdown.run(Duration::from_secs(5)).await;
//! # Ok(())
//! # }
//! ```
//!
//! At its end the program calls `context.shutdown.run(grace)`: senders are sent elsewhere, and what runs may finish.
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
mod share;

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
    let buffers = || match &*values.hybrid_connections {
        [_] => listener.buffers().clone(),
        _ => listener.buffers().share(),
    };
    let mut all = Vec::new();
    for section in &values.hybrid_connections {
        let (address, credential) = section.access().open(&base, &context)?;
        let on = HybridConnection::new(address, credential)
            .channels(section.channels)
            .rotate_after(section.rotate_after.0)
            .rendezvous_hosts(section.rendezvous_hosts.clone())
            .rendezvous_ports(section.rendezvous_ports.clone());
        all.push(forward::handlers(on, &listener, &context, section, &base, buffers())?);
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
