//! Faces on real sockets, before a gateway in memory.
mod connect;
mod grpc;
mod http;
mod http2;
mod socks5;
mod tcp;

use std::net::SocketAddr;

use proto::tunnel::server::Forward;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

use super::*;
use crate::connect::{
    config::FaceConfig,
    fake::{Bench, Gateway, soon},
    metrics::ConnectMetrics,
};

impl Face {
    /// A face that nobody serves.
    pub(super) fn for_tests(config: &str) -> Self {
        let config: FaceConfig = serde_saphyr::from_str(config).unwrap();
        let (kind, place) = config.place().unwrap();
        Self {
            kind,
            speaks: config.speaks(),
            wiring: Wiring::of(&config),
            guard: Guard::new(place, &config),
            login: None,
            allow_http: false,
            bulk: false,
            tls: None,
            clusters: Clusters::new([], ConnectMetrics::default()),
            tracer: Tracer::default(),
            clock: Arc::new(daemon::clock::SystemClock),
            shutdown: Life::new(&daemon::shutdown::Shutdown::new()),
            address: place.clone(),
        }
    }
}

/// A face in front of one tunnel.
pub(super) struct Setup {
    pub(super) bench: Bench,
    pub(super) address: SocketAddr,
    pub(super) calls: mpsc::Receiver<Forward>,
    /// Of faces that speak TLS.
    pub(super) authority: Arc<Authority>,
}

impl Setup {
    /// `settings` are the face's other keys.
    pub(super) async fn new(kind: &str, settings: &str) -> Self {
        let setup = Self::without_tunnel(kind, settings).await;
        let (gateway, calls) = Gateway::new(&setup.bench.context);
        setup.bench.connect(&gateway).await;
        Self { calls, ..setup }
    }

    async fn without_tunnel(kind: &str, settings: &str) -> Self {
        let bench = Bench::new();
        let cluster = if kind == "kubernetes" { ", to: factory-a" } else { "" };
        let fixed = matches!(kind, "http" | "tcp") && !settings.contains("routes");
        let to = if fixed { ", to: factory-a/scorer.models.svc:80" } else { cluster };
        let text = format!("{{ {kind}: 127.0.0.1:0{to}{settings} }}");
        let config: FaceConfig = serde_saphyr::from_str(&text).unwrap();
        let authority = identity::ca::Authority::generate("faces", std::time::Duration::from_secs(3600)).unwrap();
        let authority = Arc::new(authority);
        let ground = Ground {
            authority: Some(Arc::clone(&authority)),
            clusters: Clusters::new([bench.tunnels.clone()], ConnectMetrics::default()),
            tracer: Tracer::default(),
            clock: Arc::clone(&bench.context.clock),
            shutdown: bench.context.shutdown.clone(),
            connections: TaskTracker::new(),
            workers: bench.context.workers.clone(),
            clients: bench.context.workers.spread(),
        };
        let (kind, place) = config.place().unwrap();
        let login = config.login.as_ref().map(|login| Login::open(login, std::path::Path::new("/")).unwrap());
        let bound = Bound::new(&config, kind, Arc::new(bind(place, false).await.unwrap()), login, &ground);
        let address = bound.face.address.port().unwrap();
        bench.context.shutdown.spawn(bound.serve());
        let (_, calls) = Gateway::new(&bench.context);
        Self { bench, address, calls, authority }
    }

    async fn call(&mut self) -> Forward {
        soon("a call arrives", self.calls.recv()).await.unwrap()
    }

    /// Sends bytes and gives everything that is answered until the end.
    pub(super) async fn say(&self, bytes: &[u8]) -> Vec<u8> {
        let mut client = self.client().await;
        client.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        soon("the connection ends", client.read_to_end(&mut answer)).await.unwrap();
        answer
    }

    pub(super) async fn client(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}
