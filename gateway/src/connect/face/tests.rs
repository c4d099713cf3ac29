//! Faces on real sockets, before a gateway in memory.
mod http;
mod tcp;

use std::net::SocketAddr;

use proto::tunnel::server::Forward;
use tokio::sync::mpsc;

use super::*;
use crate::connect::{
    config::FaceConfig,
    fake::{Bench, Gateway, soon},
};

/// A face in front of one tunnel.
struct Setup {
    bench: Bench,
    address: SocketAddr,
    calls: mpsc::Receiver<Forward>,
}

impl Setup {
    /// `settings` are the face's other keys.
    async fn new(kind: &str, settings: &str) -> Self {
        let setup = Self::without_tunnel(kind, settings).await;
        let (gateway, calls) = Gateway::new(&setup.bench.context);
        setup.bench.connect(&gateway).await;
        Self { calls, ..setup }
    }

    async fn without_tunnel(kind: &str, settings: &str) -> Self {
        let bench = Bench::new();
        let text = format!("{{ {kind}: 127.0.0.1:0, to: factory-a/scorer.models.svc:80{settings} }}");
        let config: FaceConfig = serde_saphyr::from_str(&text).unwrap();
        let (tunnels, metrics) = (bench.tunnels.clone(), FaceMetrics::default());
        let (clock, shutdown) = (Arc::clone(&bench.context.clock), bench.context.shutdown.clone());
        let place = config.place().unwrap();
        let bound = Bound::bind(&config, place, tunnels, metrics, clock, shutdown).await.unwrap();
        let address = bound.face.address;
        bench.context.shutdown.spawn(bound.serve(TaskTracker::new()));
        let (_, calls) = Gateway::new(&bench.context);
        Self { bench, address, calls }
    }

    async fn call(&mut self) -> Forward {
        soon("a call arrives", self.calls.recv()).await.unwrap()
    }

    async fn client(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}
