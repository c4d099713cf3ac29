//! Local faces: places where clients on this side come in. Bound before anything is dialled, served until shutdown or
//! until a reload takes them away; what is in flight then may finish within the grace period.
mod carry;
mod connect;
mod farewell;
mod grpc;
pub(crate) mod guard;
pub(crate) mod head;
mod http;
pub(crate) mod kubernetes;
mod life;
mod listener;
mod login;
mod name;
mod reading;
pub(crate) mod refusal;
mod socket;
mod socks5;
mod tcp;
pub(crate) mod upload;
mod vet;
mod wiring;

use std::{io, sync::Arc, time::Duration};

use ::http::{HeaderMap, Uri, header};
use daemon::{
    clock::SharedClock,
    shutdown::Shutdown,
    traces::Tracer,
    workers::{Spread, Workers},
};
use identity::ca::Authority;
use proto::tunnel::failure::Failure;
use rustls::ServerConfig;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use self::{guard::Guard, life::Life, refusal::Refusal, socket::Socket, wiring::Wiring};
pub(crate) use self::{listener::Listener, login::Login};
use super::{
    access::Access,
    bulk::BULK,
    clusters::{Clusters, Lead, Reach},
    config::{FaceConfig, FaceKind, Speaks},
    place::Place,
    stream_id::StreamId,
    target::Target,
};
use crate::traces;

/// Connections of one face at a time: as many streams as two tunnels carry. Further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 2000;
/// After an accept failed, usually because the process has no descriptors left: long enough for some to come back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long connections that have begun, of clients that are turned away from then on, take to arrive: some round trips
/// between continents.
const ARRIVING: Duration = Duration::from_millis(500);

/// What every face needs of the connector.
#[derive(Debug, Clone)]
pub(crate) struct Ground {
    pub(crate) clusters: Clusters,
    pub(crate) tracer: Tracer,
    pub(crate) clock: SharedClock,
    pub(crate) shutdown: Shutdown,
    /// Signs the certificates of faces that speak TLS, where there are any.
    pub(crate) authority: Option<Arc<Authority>>,
    /// Knows when the last connection of all faces has ended.
    pub(crate) connections: TaskTracker,
    pub(crate) workers: Workers,
    /// How many connections each worker serves.
    pub(crate) clients: Spread,
}

/// What the connections of a face need.
#[derive(Debug)]
pub(crate) struct Face {
    pub(crate) kind: FaceKind,
    /// Where it really listens.
    pub(crate) address: Place,
    pub(crate) speaks: Speaks,
    wiring: Wiring,
    guard: Guard,
    /// TLS, where the face speaks it.
    tls: Option<Arc<ServerConfig>>,
    /// What clients must show.
    login: Option<Login>,
    /// HTTP is carried whoever sends it, by a face for bytes.
    allow_http: bool,
    /// Its streams are bulk.
    bulk: bool,
    clusters: Clusters,
    tracer: Tracer,
    clock: SharedClock,
    pub(crate) shutdown: Life,
}

/// A face that is ready and not yet served.
#[derive(Debug)]
pub(crate) struct Bound {
    listener: Arc<Listener>,
    ground: Ground,
    pub(crate) face: Arc<Face>,
}

impl Bound {
    /// Puts a face at a place where somebody listens already.
    pub(crate) fn new(
        config: &FaceConfig,
        kind: FaceKind,
        listener: Arc<Listener>,
        login: Option<Login>,
        ground: &Ground,
    ) -> Self {
        let address = listener.place().clone();
        let tls = ground.authority.as_ref().filter(|_| kind == FaceKind::Kubernetes).map(|authority| {
            kubernetes::authority::server(authority, config.names(&address), Arc::clone(&ground.clock))
        });
        let face = Face {
            kind,
            tls,
            speaks: config.speaks(),
            wiring: Wiring::of(config),
            guard: Guard::new(&address, config),
            login,
            allow_http: config.allow_http,
            bulk: config.bulk,
            clusters: ground.clusters.clone(),
            tracer: ground.tracer.clone(),
            clock: Arc::clone(&ground.clock),
            shutdown: Life::new(&ground.shutdown),
            address,
        };
        let (what, to) = (format!("face-{}", kind.name()), &face.wiring);
        tracing::info!(what, address = %face.address, to = %to, speaks_as = face.speaks.name(), "listening");
        if !face.address.is_private() {
            let says = match face.login {
                Some(_) => "open to the network: its login crosses it in the clear",
                None => "open to the network: whoever reaches this face can use it",
            };
            tracing::warn!(what, address = %face.address, to = %to, "{says}");
        }
        Self { listener, ground: ground.clone(), face: Arc::new(face) }
    }

    /// Accepts until shutdown, or until the face is taken away. Each connection goes to a worker that has a tunnel for it.
    pub(crate) async fn serve(self) {
        let Self { listener, ground, face } = self;
        let clusters = face.wiring.clusters();
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let accepting = async {
            loop {
                let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
                match listener.accept().await {
                    Ok(client) => {
                        let berth = ground.clients.place(|worker| ground.clusters.are_on(worker, &clusters, face.bulk));
                        let (worker, face) = (berth.worker(), face.clone());
                        let served = ground.connections.track_future(async move {
                            match client.place() {
                                Ok(client) => face.connection(client).await,
                                Err(error) => tracing::warn!(address = %face.address, %error, "cannot serve a client"),
                            }
                            drop((permit, berth));
                        });
                        ground.workers.spawn(worker, &ground.shutdown, served);
                    }
                    Err(error) => {
                        tracing::warn!(address = %face.address, %error, "cannot accept");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::pin!(accepting);
        tokio::select! {
            biased;
            () = face.shutdown.draining() => {}
            () = &mut accepting => {}
        }
        // Whoever has come already is still let in: another connector may be there for all who come later.
        if !face.shutdown.is_handed_over() && listener.turn_away() {
            // Then it is over, whoever has not come.
            let _ = tokio::time::timeout(ARRIVING, accepting).await;
        }
    }
}

impl Face {
    async fn connection(self: Arc<Self>, client: Socket) {
        match self.kind {
            FaceKind::Http => http::serve(self, client).await,
            FaceKind::Tcp => tcp::serve(self, client).await,
            FaceKind::Socks5 => socks5::serve(self, client).await,
            FaceKind::Connect => connect::serve(self, client).await,
            FaceKind::Kubernetes => kubernetes::serve(self, client).await,
            FaceKind::Grpc => grpc::serve(self, client).await,
        }
    }

    /// The account of a stream that begins now.
    fn access(&self) -> Access {
        self.access_of(&HeaderMap::new())
    }

    /// The same for one whose client may say which trace it belongs to.
    fn access_of(&self, fields: &HeaderMap) -> Access {
        let now = self.clock.now();
        let span = self.tracer.begin(traces::parent(fields).as_ref(), now);
        Access::new(StreamId::new(now), self.kind, self.speaks, self.clusters.nowhere(self.kind), span)
    }

    /// Where a request of an HTTP face goes.
    fn lead(&self, uri: &Uri, fields: &HeaderMap) -> Result<Lead, Refusal> {
        let (target, bulk) = self.wiring.target(uri, fields).ok_or_else(Refusal::unrouted)?;
        let lead = self.clusters.lead(target, self.kind)?;
        // Later routes and requests of the same target may be of another kind: only what is said here counts.
        let length = fields.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let bulk = bulk || self.bulk || length.is_some_and(|length| length >= BULK);
        Ok(if bulk { lead.for_bulk() } else { lead })
    }

    /// Where a connection goes that is one stream.
    fn lead_to(&self, target: Arc<Target>) -> Result<Lead, Failure> {
        let bulk = self.bulk || self.clusters.memory.expects(&target);
        let lead = self.clusters.lead(target, self.kind)?;
        Ok(if bulk { lead.for_bulk() } else { lead })
    }

    /// The cluster of a face whose clients name the rest.
    fn reach(&self) -> Result<Reach, Refusal> {
        let cluster = self.wiring.default().ok_or_else(Refusal::unrouted)?;
        self.clusters.reach(cluster, self.kind).map_err(Refusal::ours)
    }

    /// Where the client of a proxy face wants to go.
    fn lead_named(&self, host: &str, port: u16) -> Result<Lead, Failure> {
        self.lead_to(name::target(&self.clusters, self.wiring.default(), host, port)?)
    }

    /// What `/statusz` tells.
    pub(crate) fn status(&self) -> serde_json::Value {
        serde_json::json!({
            "kind": self.kind.name(),
            "address": self.address.to_string(),
            "to": self.wiring.to_string(),
            "as": self.speaks.name(),
        })
    }
}

/// Binds a place; a `shared` port may be bound by others of this user, too.
pub(crate) async fn bind(place: &Place, shared: bool) -> io::Result<Listener> {
    Listener::bind(place, shared).await
}

#[cfg(test)]
mod tests;
