//! The tunnel port: accepts, counts, and hands each connection to a worker, where it stays with all of its streams. Accept
//! errors come in floods, so it pauses after each. It stops first when draining begins.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use daemon::workers::{Berth, Spread};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::{
    config::Listen,
    entry::{
        self, Refusal,
        gate::{Gate, Ticket},
    },
    gateway::Gateway,
    session::{self, services::Services},
};

/// Pause after an accept error: without descriptors there is nothing to do but wait for some.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);

/// A bound port.
#[derive(Debug)]
pub(super) struct Port {
    listener: TcpListener,
    listen: Arc<Listen>,
    gate: Arc<Gate>,
    tunnels: Arc<Semaphore>,
    connections: Spread,
}

impl Port {
    pub(super) fn new(listener: TcpListener, listen: Listen, gateway: &Gateway) -> Self {
        let limits = &gateway.limits;
        Self {
            listener,
            listen: Arc::new(listen),
            gate: Gate::new(limits.handshakes, limits.handshakes_per_address),
            tunnels: Arc::new(Semaphore::new(limits.tunnels)),
            connections: gateway.context.workers.spread(),
        }
    }

    /// Accepts until draining begins.
    pub(super) async fn serve(self, gateway: Arc<Gateway>, services: Arc<Services>) {
        let shutdown = gateway.context.shutdown.clone();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.draining() => return,
                // The worker that serves it is to be woken by it, not this thread.
                accepted = self.listener.accept() => accepted.and_then(|(tcp, peer)| Ok((tcp.into_std()?, peer))),
            };
            let (tcp, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "the tunnel port cannot accept");
                    tokio::time::sleep(ACCEPT_BACK_OFF).await;
                    continue;
                }
            };
            let permits = self.gate.enter().map_err(Refusal::from).and_then(|ticket| {
                let tunnel = Arc::clone(&self.tunnels).try_acquire_owned().map_err(|_| Refusal::Tunnels)?;
                Ok((ticket, tunnel))
            });
            match permits {
                Ok((ticket, tunnel)) => {
                    let (listen, gateway, services) =
                        (Arc::clone(&self.listen), Arc::clone(&gateway), Arc::clone(&services));
                    let place = Place { _tunnel: tunnel, berth: self.connections.place(|_| true) };
                    let (workers, worker) = (gateway.context.workers.clone(), place.berth.worker());
                    let serve = connection(tcp, peer, listen, gateway, services, ticket, place);
                    workers.spawn(worker, &shutdown, serve);
                }
                Err(refusal) => log(&gateway, peer, &refusal),
            }
        }
    }
}

/// What a connection takes up until it ends.
#[derive(Debug)]
struct Place {
    _tunnel: OwnedSemaphorePermit,
    berth: Berth,
}

async fn connection(
    tcp: std::net::TcpStream,
    peer: SocketAddr,
    listen: Arc<Listen>,
    gateway: Arc<Gateway>,
    services: Arc<Services>,
    ticket: Ticket,
    place: Place,
) {
    let tcp = match TcpStream::from_std(tcp) {
        Ok(tcp) => tcp,
        Err(error) => return tracing::warn!(%peer, %error, "a connection cannot be served"),
    };
    // Without it all still works, only slower.
    let _ = tcp.set_nodelay(true);
    let tls = gateway.shown.tls();
    let forced = gateway.context.shutdown.clone();
    // Boxed, so that what the handshakes need is given back before the tunnel begins its long life.
    let admitted = tokio::select! {
        biased;
        () = forced.draining() => return,
        admitted = Box::pin(entry::admit(tcp, peer, &listen, &tls, ticket)) => admitted,
    };
    drop(tls);
    match admitted {
        Ok(admitted) => Box::pin(session::run(admitted, gateway, services)).await,
        Err(refusal) => log(&gateway, peer, &refusal),
    }
    drop(place);
}

/// Each refusal is one line.
fn log(gateway: &Gateway, peer: SocketAddr, refusal: &Refusal) {
    gateway.metrics.connection_refused(refusal.name());
    let cause = std::error::Error::source(refusal).map(ToString::to_string);
    tracing::info!(target: "access", %peer, kind = "connection", ended = refusal.name(), reason = %refusal, cause, "refused");
}
