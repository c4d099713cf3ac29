//! Local ports: each leads to one target of one cluster. Bound before anything is dialled, served until shutdown; what is
//! in flight then may finish within the grace period.
pub(crate) mod guard;
pub(crate) mod head;
mod http;
pub(crate) mod refusal;
mod tcp;
pub(crate) mod upload;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use daemon::{clock::SharedClock, shutdown::Shutdown};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::task::TaskTracker;

use super::{
    access::Access,
    config::{FaceConfig, FaceKind, Speaks},
    metrics::FaceMetrics,
    stream_id::StreamId,
    target::Target,
    tunnels::Tunnels,
};

/// Connections of one face at a time: as many streams as two tunnels carry. Further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 2000;
/// After an accept failed, usually because the process has no descriptors left: long enough for some to come back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the connections of a face need.
#[derive(Debug)]
pub(crate) struct Face {
    pub(crate) kind: FaceKind,
    pub(crate) address: SocketAddr,
    pub(crate) target: Arc<Target>,
    pub(crate) speaks: Speaks,
    guard: guard::Guard,
    tunnels: Tunnels,
    metrics: Arc<FaceMetrics>,
    clock: SharedClock,
    shutdown: Shutdown,
}

/// A port that is bound and not yet served.
#[derive(Debug)]
pub(crate) struct Bound {
    listener: TcpListener,
    pub(crate) face: Arc<Face>,
}

impl Bound {
    /// Binds a face's port.
    pub(crate) async fn bind(
        config: &FaceConfig,
        (kind, address): (FaceKind, SocketAddr),
        tunnels: Tunnels,
        metrics: FaceMetrics,
        clock: SharedClock,
        shutdown: Shutdown,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let face = Face {
            kind,
            address,
            target: Arc::new(config.to.clone()),
            speaks: config.speaks(),
            guard: guard::Guard::new(address, &config.to, &config.hosts),
            tunnels,
            metrics: Arc::new(metrics),
            clock,
            shutdown,
        };
        let what = match kind {
            FaceKind::Http => "face-http",
            FaceKind::Tcp => "face-tcp",
        };
        tracing::info!(what, address = %address, to = %face.target, speaks_as = face.speaks.name(), "listening");
        if config.open_to_network && !address.ip().to_canonical().is_loopback() {
            tracing::warn!(what, address = %address, to = %face.target, "open to the network: whoever reaches this port can use it");
        }
        Ok(Self { listener, face: Arc::new(face) })
    }

    /// Accepts until shutdown. `connections` knows when the last connection has ended.
    pub(crate) async fn serve(self, connections: TaskTracker) {
        let Self { listener, face } = self;
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let accepting = async {
            loop {
                let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
                match listener.accept().await {
                    Ok((client, _)) => {
                        let served = face.clone().connection(client);
                        face.shutdown.spawn(connections.track_future(async move {
                            served.await;
                            drop(permit);
                        }));
                    }
                    Err(error) => {
                        tracing::warn!(address = %face.address, %error, "cannot accept");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = face.shutdown.draining() => {}
            () = accepting => {}
        }
    }
}

impl Face {
    async fn connection(self: Arc<Self>, client: TcpStream) {
        // What is written is whole frames or pieces that somebody waits for.
        if client.set_nodelay(true).is_err() {
            return;
        }
        match self.kind {
            FaceKind::Http => http::serve(self, client).await,
            FaceKind::Tcp => tcp::serve(self, client).await,
        }
    }

    fn access(&self) -> Access {
        let stream = StreamId::new(self.clock.now());
        Access::new(stream, Arc::clone(&self.target), self.kind, self.speaks, Arc::clone(&self.metrics))
    }
}

#[cfg(test)]
mod tests;
