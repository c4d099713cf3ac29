//! A gateway in memory for tests: the real tunnel protocol on a pipe, with a target that the test scripts.
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use daemon::{clock::SystemClock, process::Context};
use futures_util::Stream;
use http::HeaderMap;
use identity::{
    secret::Secret,
    token::{Cache, Source, Token, TokenError},
};
use proto::tunnel::{
    client,
    failure::Failure,
    pb::{self, forward_request, forward_response, tunnel_server::TunnelServer},
    receive::Part,
    server::{self, Call, Forward},
    settings::Settings,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{actor::Actor, metrics::ConnectMetrics, tunnels::Tunnels, tunnels::keep::Care, way::Opened};

/// Patience of every wait in a test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Life that the fake gateway gives an actor.
pub(crate) const ACTOR_LIFE: Duration = Duration::from_secs(1000);

/// Waits for something that must happen.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("did not happen: {what}"),
    }
}

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    soon(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A token source that counts.
#[derive(Debug, Default)]
pub(crate) struct Tokens(AtomicUsize);

impl Source for Tokens {
    fn fetch<'a>(&'a self, _audience: &'a str) -> Pin<Box<dyn Future<Output = Result<Token, TokenError>> + Send + 'a>> {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let expires = SystemTime::now() + Duration::from_secs(3600);
            Ok(Token { secret: Secret::new(format!("actor-{number}")), expires, refresh: None })
        })
    }
}

/// What a cluster's tunnels need, without a network.
pub(crate) struct Bench {
    pub(crate) context: Context,
    pub(crate) tunnels: Tunnels,
    pub(crate) stop: CancellationToken,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let context = Context::new("test");
        let metrics = ConnectMetrics::default();
        let cluster: Arc<str> = "factory-a".into();
        let tunnels = Tunnels::new(Arc::clone(&cluster), 2, metrics.cluster(&cluster));
        Self { context, tunnels, stop: CancellationToken::new() }
    }

    pub(crate) fn care(&self) -> Care {
        let source = Arc::new(Tokens::default());
        let cache = Cache::new(source, Arc::new(SystemClock), self.context.shutdown.clone());
        Care {
            tunnels: self.tunnels.clone(),
            actor: Actor::new(cache, "causeway://factory-a".to_owned()),
            clock: Arc::new(SystemClock),
            shutdown: self.context.shutdown.clone(),
            stop: self.stop.clone(),
        }
    }

    /// Opens a tunnel to `gateway` and keeps it in the pool until it retires.
    pub(crate) async fn connect(&self, gateway: &Gateway) {
        self.connect_as(&self.tunnels, gateway).await;
    }

    /// The same for a lane of the pool.
    pub(crate) async fn connect_as(&self, tunnels: &Tunnels, gateway: &Gateway) {
        let opened = gateway.open().await;
        let before = self.tunnels.up();
        let (retired, _told) = tokio::sync::oneshot::channel();
        let life = super::tunnels::life::live(
            Care { tunnels: tunnels.clone(), ..self.care() },
            opened,
            retired,
            CancellationToken::new(),
            CancellationToken::new(),
        );
        self.context.shutdown.spawn(life);
        until("the tunnel is in the pool", || self.tunnels.up() > before).await;
    }
}

/// A gateway. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Gateway {
    context: Context,
    forwards: mpsc::Sender<Forward>,
    drain: watch::Sender<usize>,
    kill: watch::Sender<usize>,
    freeze: watch::Sender<usize>,
    notices: watch::Sender<usize>,
    pub(crate) described: Arc<AtomicUsize>,
    pub(crate) opened: Arc<AtomicUsize>,
}

impl Gateway {
    /// A gateway and the `Forward` calls that reach it.
    pub(crate) fn new(context: &Context) -> (Self, mpsc::Receiver<Forward>) {
        let (forwards, calls) = mpsc::channel(64);
        let gateway = Self {
            context: context.clone(),
            forwards,
            drain: watch::Sender::new(0),
            kill: watch::Sender::new(0),
            freeze: watch::Sender::new(0),
            notices: watch::Sender::new(0),
            described: Arc::default(),
            opened: Arc::default(),
        };
        (gateway, calls)
    }

    /// Sends GOAWAY on every tunnel.
    pub(crate) fn drain(&self) {
        self.drain.send_modify(|count| *count += 1);
    }

    /// Breaks every tunnel.
    pub(crate) fn kill(&self) {
        self.kill.send_modify(|count| *count += 1);
    }

    /// Falls silent on every tunnel and leaves it as it is, as a machine does that loses its power.
    pub(crate) fn freeze(&self) {
        self.freeze.send_modify(|count| *count += 1);
    }

    /// Sends a drain notice beside every tunnel, as a relay does.
    pub(crate) fn notice(&self) {
        self.notices.send_modify(|count| *count += 1);
    }

    /// A tunnel, as a way would have opened it.
    pub(crate) async fn open(&self) -> Opened {
        let (near, far) = tokio::io::duplex(256 * 1024);
        self.context.shutdown.spawn(self.clone().serve(far));
        let (sender, notices) = mpsc::channel(4);
        let mut told = self.notices.subscribe();
        self.context.shutdown.spawn(async move {
            while told.changed().await.is_ok() {
                if sender.send(r#"{"drain":{"within_ms":1000}}"#.to_owned()).await.is_err() {
                    return;
                }
            }
        });
        let (client, driver) = client::connect(near, Settings::default()).await.unwrap();
        self.opened.fetch_add(1, Ordering::Relaxed);
        Opened {
            client,
            driver: Box::pin(driver),
            notices,
            state: state(),
            way: "direct",
            address: "wss://fake".to_owned(),
            identity: "0".repeat(64),
            follow: super::way::follow::Follow::off(),
            took: Duration::ZERO,
        }
    }

    /// Serves one connection.
    pub(crate) async fn serve<IO>(self, io: IO)
    where
        IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (mut drain, mut kill) = (self.drain.subscribe(), self.kill.subscribe());
        let mut freeze = self.freeze.subscribe();
        let Ok(mut server) = server::accept(io, Settings::default()).await else { return };
        let mut draining = false;
        loop {
            let call = tokio::select! {
                biased;
                _ = kill.changed() => return,
                () = self.context.shutdown.forced() => return,
                _ = freeze.changed() => std::future::pending().await,
                _ = drain.changed(), if !draining => {
                    draining = true;
                    server.drain();
                    continue;
                }
                call = server.next() => call,
            };
            match call {
                Some(Ok(Call::Forward(forward))) => {
                    let _ = self.forwards.send(forward).await;
                }
                Some(Ok(Call::Other(other))) => {
                    let service = TunnelServer::new(self.clone());
                    self.context.shutdown.spawn(other.serve(service));
                }
                Some(Err(_)) | None => return,
            }
        }
    }
}

fn state() -> pb::DescribeResponse {
    let expires = SystemTime::now() + ACTOR_LIFE;
    let expires = expires.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    pb::DescribeResponse {
        cluster: "factory-a".to_owned(),
        actor: "local/connector".to_owned(),
        actor_expires: i64::try_from(expires).unwrap(),
        ..Default::default()
    }
}

#[tonic::async_trait]
impl pb::tunnel_server::Tunnel for Gateway {
    type ForwardStream = Pin<Box<dyn Stream<Item = Result<pb::ForwardResponse, tonic::Status>> + Send>>;
    type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::WatchEvent, tonic::Status>> + Send>>;

    async fn forward(
        &self,
        _: tonic::Request<tonic::Streaming<pb::ForwardRequest>>,
    ) -> Result<tonic::Response<Self::ForwardStream>, tonic::Status> {
        Err(tonic::Status::unimplemented("framed by hand"))
    }

    async fn describe(
        &self,
        request: tonic::Request<pb::DescribeRequest>,
    ) -> Result<tonic::Response<pb::DescribeResponse>, tonic::Status> {
        let actor = request.metadata().get("causeway-actor").and_then(|value| value.to_str().ok());
        assert!(actor.is_some_and(|actor| actor.starts_with("Bearer actor-")), "{actor:?}");
        self.described.fetch_add(1, Ordering::Relaxed);
        Ok(tonic::Response::new(state()))
    }

    async fn watch(
        &self,
        _: tonic::Request<pb::WatchRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, tonic::Status> {
        Ok(tonic::Response::new(Box::pin(futures_util::stream::pending())))
    }
}

/// The first message of a call.
pub(crate) async fn opening(forward: &mut Forward) -> pb::Open {
    match soon("`open` arrives", forward.receiver.next()).await {
        Some(Ok(Part::Message(pb::ForwardRequest { part: Some(forward_request::Part::Open(open)) }))) => open,
        other => panic!("expected `open`, got {other:?}"),
    }
}

/// The HTTP request of a call.
pub(crate) async fn opening_http(forward: &mut Forward) -> pb::HttpRequest {
    match opening(forward).await.target {
        Some(pb::open::Target::Http(request)) => request,
        other => panic!("expected an HTTP request, got {other:?}"),
    }
}

/// Reads a direction to its end: payload, and trailers.
pub(crate) async fn body(forward: &mut Forward) -> (Vec<u8>, Vec<pb::Field>) {
    let mut body = Vec::new();
    loop {
        match soon("the body goes on", forward.receiver.next()).await {
            Some(Ok(Part::Data(bytes))) => {
                forward.receiver.taken(bytes.len());
                body.extend_from_slice(&bytes);
            }
            Some(Ok(Part::Message(pb::ForwardRequest { part: Some(forward_request::Part::Fin(fin)) }))) => {
                return (body, fin.trailers);
            }
            other => panic!("the body broke: {other:?}"),
        }
    }
}

pub(crate) fn head(status: u32, fields: &[(&str, &str)]) -> pb::ForwardResponse {
    let fields = fields
        .iter()
        .map(|(name, value)| pb::Field { name: (*name).to_owned(), value: Bytes::copy_from_slice(value.as_bytes()) })
        .collect();
    pb::ForwardResponse { part: Some(forward_response::Part::Head(pb::Head { status, fields })) }
}

pub(crate) fn connected() -> pb::ForwardResponse {
    let connected = pb::Connected { address: "10.0.0.7:5432".to_owned() };
    pb::ForwardResponse { part: Some(forward_response::Part::Connected(connected)) }
}

/// Answers in full.
pub(crate) async fn answer(mut forward: Forward, status: u32, fields: &[(&str, &str)], payload: &'static [u8]) {
    forward.sender.message(head(status, fields)).await.unwrap();
    if !payload.is_empty() {
        forward.sender.data(Bytes::from_static(payload)).await.unwrap();
    }
    forward.sender.fin(pb::Fin::default()).await.unwrap();
    forward.sender.finish();
}

/// Fails a call.
pub(crate) fn fail(forward: Forward, failure: &Failure) {
    forward.sender.fail(failure);
}

/// A TCP stream's metadata and head, for tests below the faces.
pub(crate) fn tcp_open() -> (HeaderMap, pb::Open) {
    let tcp = pb::TcpTarget { host: "db".to_owned(), port: 1 };
    (HeaderMap::new(), pb::Open { target: Some(pb::open::Target::Tcp(tcp)), hops: 0 })
}
