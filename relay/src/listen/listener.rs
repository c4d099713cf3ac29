//! The listener as a library: which hybrid connections to listen on, and who handles what comes.
use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use daemon::process::Context;
use http::{Request, Response};
use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};
use identity::chance::Chance;
use proto::hybrid::address::segments;
use rustls::ClientConfig;

use super::{
    channel::{self, Channels, Opener, Relay},
    http::{Places, RequestBody},
    knock::Knock,
    limits::Limits,
    metrics::ListenerMetrics,
    permit::Permit,
    ready::Ready,
    share::{Commons, Share},
};
use crate::{
    dial::Dialer,
    sender::{Address, Credential},
    splice::Buffers,
};

/// Control channels held by default, so that one may break.
pub const CHANNELS: usize = 2;

/// Age at which a control channel is replaced by default, give or take a fifth. Azure Relay drops every channel at about
/// a day; ours then never is that old, and a name that has got new addresses is looked up some times a day.
pub const ROTATE_AFTER: Duration = Duration::from_secs(6 * 3600);

/// Time for the head of an answer by default: relays give up after 60 s.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(55);

/// HTTP requests at a time by default, of one hybrid connection.
pub const REQUESTS: usize = 256;

/// Why a body broke off.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Body of an answer.
pub type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;

type Eventually<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type OnWebSocket = Arc<dyn Fn(Knock) -> Eventually<()> + Send + Sync>;
type OnRequest = Arc<dyn Fn(Request<RequestBody>) -> Eventually<Response<ResponseBody>> + Send + Sync>;

/// Listens on hybrid connections. One per process: limits and metrics are those of all its connections together.
#[derive(Debug, Clone)]
pub struct Listener {
    shared: Arc<Shared>,
}

/// What all hybrid connections of a listener share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) context: Context,
    pub(super) dialer: Dialer,
    pub(super) tls: Arc<ClientConfig>,
    dials: Commons,
    dials_waiting: Commons,
    joined: Commons,
    pub(super) buffers: Buffers,
    pub(super) metrics: ListenerMetrics,
}

/// One hybrid connection to listen on, and who handles what comes through it.
///
/// Without a handler for WebSockets their senders are rejected with 501; without one for requests these are answered
/// with 501.
#[derive(Clone)]
pub struct HybridConnection {
    address: Address,
    credential: Credential,
    channels: usize,
    rotate_after: Duration,
    rendezvous_hosts: Vec<String>,
    rendezvous_ports: Vec<u16>,
    requests: usize,
    answer_within: Duration,
    on_websocket: Option<OnWebSocket>,
    on_request: Option<OnRequest>,
}

/// One hybrid connection that is listened on.
pub(super) struct Held {
    pub(super) shared: Arc<Shared>,
    pub(super) address: Address,
    /// Segments of its path, for comparing.
    pub(super) entity: Vec<String>,
    pub(super) credential: Credential,
    pub(super) permit: Permit,
    pub(super) rotate_after: Duration,
    pub(super) answer_within: Duration,
    pub(super) dials: Share,
    pub(super) dials_waiting: Share,
    pub(super) joined: Share,
    pub(super) requests: Places,
    pub(super) on_websocket: Option<OnWebSocket>,
    pub(super) on_request: Option<OnRequest>,
    pub(super) channels: Channels,
    pub(super) ready: Ready,
}

/// A hybrid connection that is being listened on. Dropping it changes nothing: it ends with the shutdown of its listener.
#[derive(Debug, Clone)]
pub struct Listening {
    held: Arc<Held>,
}

/// A control channel that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenChannel {
    /// Its `sb-hc-id`, by which a relay names it.
    pub id: String,
    /// Since when it is open.
    pub since: SystemTime,
    /// When the token ends by which the relay knows it.
    pub token_expires: SystemTime,
    /// It gives way to its successor, or to the end of the process.
    pub retiring: bool,
}

impl Listener {
    /// A listener that listens on nothing yet. Its connections to relays leave by `dialer`; `tls` says whom to believe to
    /// be the relay. Everything it starts belongs to `context.shutdown`, and its counters are registered with
    /// `context.metrics`.
    pub fn new(context: &Context, dialer: Dialer, tls: Arc<ClientConfig>, limits: &Limits) -> Self {
        let shared = Shared {
            metrics: ListenerMetrics::register(&context.metrics),
            context: context.clone(),
            dialer,
            tls,
            dials: Commons::new(limits.dials),
            dials_waiting: Commons::new(limits.dials_waiting),
            joined: Commons::new(limits.joined),
            buffers: Buffers::new(usize::try_from(limits.buffer_memory.0).unwrap_or(usize::MAX)),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Memory for large reads of everything that this listener joins, to be used by handlers that splice.
    pub fn buffers(&self) -> &Buffers {
        &self.shared.buffers
    }

    pub(super) fn metrics(&self) -> &ListenerMetrics {
        &self.shared.metrics
    }

    /// Begins to listen. Must be called within a tokio runtime.
    pub fn listen(&self, on: HybridConnection) -> Listening {
        self.listen_by(on, Relay::default(), &Chance::default())
    }

    /// The same with control channels from `opener`.
    pub(super) fn listen_by<O: Opener>(&self, on: HybridConnection, opener: O, chance: &Chance) -> Listening {
        let shared = self.shared.clone();
        let held = Arc::new(Held {
            permit: Permit::new(&on.address, &on.rendezvous_hosts, &on.rendezvous_ports),
            ready: Ready::watch(&shared.context.readiness, &on.address),
            entity: segments(&on.address.path),
            address: on.address,
            credential: on.credential,
            rotate_after: on.rotate_after,
            answer_within: on.answer_within,
            dials: shared.dials.share(),
            dials_waiting: shared.dials_waiting.share(),
            joined: shared.joined.share(),
            requests: Places::new(on.requests),
            on_websocket: on.on_websocket,
            on_request: on.on_request,
            channels: Channels::default(),
            shared,
        });
        let opener = Arc::new(opener);
        for slot in 0..on.channels {
            let keeping = channel::keep(held.clone(), opener.clone(), slot, chance.clone());
            self.shared.context.shutdown.spawn(keeping);
        }
        Listening { held }
    }
}

impl HybridConnection {
    /// To be listened on with the defaults named in this module.
    pub fn new(address: Address, credential: Credential) -> Self {
        Self {
            address,
            credential,
            channels: CHANNELS,
            rotate_after: ROTATE_AFTER,
            rendezvous_hosts: Vec::new(),
            rendezvous_ports: Vec::new(),
            requests: REQUESTS,
            answer_within: ANSWER_WITHIN,
            on_websocket: None,
            on_request: None,
        }
    }

    /// Whether the relay is spoken to by TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.address.tls
    }

    /// How many control channels to hold; default [`CHANNELS`].
    #[must_use]
    pub fn channels(mut self, channels: usize) -> Self {
        self.channels = channels;
        self
    }

    /// At what age to replace a control channel, give or take a fifth; default [`ROTATE_AFTER`].
    #[must_use]
    pub fn rotate_after(mut self, age: Duration) -> Self {
        self.rotate_after = age;
        self
    }

    /// Hosts that the relay may name for a rendezvous, each with all names below it, in place of its parent domain.
    #[must_use]
    pub fn rendezvous_hosts(mut self, hosts: Vec<String>) -> Self {
        self.rendezvous_hosts = hosts;
        self
    }

    /// Ports that the relay may name for a rendezvous beside its own.
    #[must_use]
    pub fn rendezvous_ports(mut self, ports: Vec<u16>) -> Self {
        self.rendezvous_ports = ports;
        self
    }

    /// HTTP requests that are handled at a time, more are answered with 503; default [`REQUESTS`]. One sender's address
    /// gets three quarters of them at most.
    #[must_use]
    pub fn requests(mut self, requests: usize) -> Self {
        self.requests = requests;
        self
    }

    /// How long a handler may take until the head of its answer, counted from the last byte of the request's body that
    /// arrived; then its future is dropped and the sender gets 504. Default [`ANSWER_WITHIN`].
    #[must_use]
    pub fn answer_within(mut self, within: Duration) -> Self {
        self.answer_within = within;
        self
    }

    /// Who accepts or rejects WebSocket senders. Each has a task of its own, in which the handler may go on for as long
    /// as the connection lasts.
    #[must_use]
    pub fn on_websocket<F, Fut>(mut self, handler: F) -> Self
    where
        F: Fn(Knock) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.on_websocket = Some(Arc::new(move |knock| Box::pin(handler(knock))));
        self
    }

    /// Who answers HTTP requests. The head has passed [`super::Received`]'s checks: the target is in origin form and
    /// beneath this hybrid connection, hop-by-hop fields are removed. The body of the answer is sent on as it comes; the
    /// future and the body are dropped when the sender goes away.
    #[must_use]
    pub fn on_request<F, Fut, B>(mut self, handler: F) -> Self
    where
        F: Fn(Request<RequestBody>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Response<B>> + Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.on_request = Some(Arc::new(move |request| {
            let answer = handler(request);
            Box::pin(async move { answer.await.map(|body| body.map_err(Into::into).boxed_unsync()) })
        }));
        self
    }
}

impl Listening {
    /// The control channels that are open now.
    pub fn channels(&self) -> Vec<OpenChannel> {
        self.held.channels.open()
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.held.address
    }

    /// HTTP requests that are being handled now.
    pub fn requests(&self) -> usize {
        self.held.requests.used()
    }

    /// Why there is no control channel, if there has been none since.
    pub fn problem(&self) -> Option<String> {
        self.held.ready.problem()
    }
}

impl fmt::Debug for HybridConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HybridConnection").field("address", &self.address).finish_non_exhaustive()
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("address", &self.address).finish_non_exhaustive()
    }
}
