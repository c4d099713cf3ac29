//! One rendezvous: where it may be, the target, the dial back, and the splice between the two.
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use http::HeaderMap;
use proto::{
    hybrid::{address::reject, message::Accept, status::clean},
    tunnel::SUBPROTOCOL,
    ws::{Role, handshake::UpgradeError},
};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout},
};
use tracing::info;

use super::{
    Held,
    permit::{Destination, Refused, may_dial},
    proxy_v2,
};
use crate::{
    dial::{Carrier, ReachError},
    sender::{self, Address, DialError},
    splice::{End, Framing, Leg, Side, Signals, Splice, drain_notice},
    transport,
};

/// For everything up to the splice: after 30 s no relay remembers the rendezvous (SD-8).
const SETUP: Duration = Duration::from_secs(30);

/// For the target alone, so that a rejection is still in time.
const TARGET: Duration = Duration::from_secs(10);

/// What a sender is told when its target is down.
const TARGET_DOWN: u16 = 502;

/// Longest id and description in a log line.
const SHOWN: usize = 128;

/// Why a rendezvous did not come about.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("rendezvous cannot be dialled")]
    Dial(#[from] DialError),
    #[error("target cannot be reached; the sender was told")]
    Target(#[source] io::Error),
    #[error("no rendezvous within {SETUP:?}")]
    TooSlow,
}

impl Failed {
    fn name(&self) -> &'static str {
        match self {
            Self::Refused(refused) => refused.name(),
            Self::Dial(DialError::Reach(ReachError::Resolve { .. })) => "unresolvable",
            Self::Dial(_) => "dial_failed",
            Self::Target(_) => "target_down",
            Self::TooSlow => "too_slow",
        }
    }

    fn fault(&self) -> &'static str {
        match self {
            Self::Refused(_) | Self::Dial(_) => "relay",
            Self::Target(_) => "target",
            Self::TooSlow => "unknown",
        }
    }
}

/// What one rendezvous came to. Writes its line on drop.
#[derive(Debug)]
struct Line {
    held: Arc<Held>,
    began: Instant,
    id: String,
    remote: String,
    outcome: &'static str,
    fault: &'static str,
    detail: String,
    bytes_up: u64,
    bytes_down: u64,
    /// Its place among the joined.
    _joined: OwnedSemaphorePermit,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.held.metrics.ended(self.outcome);
        info!(
            target: "access",
            kind = "rendezvous",
            id = self.id,
            relay = %self.held.address,
            remote = self.remote,
            target = self.held.forward.target(),
            outcome = self.outcome,
            fault = self.fault,
            detail = self.detail,
            bytes_up = self.bytes_up,
            bytes_down = self.bytes_down,
            duration_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "rendezvous ended"
        );
    }
}

/// What one rendezvous takes of the listener's limits.
#[derive(Debug)]
pub(super) struct Place {
    /// Until a dial begins.
    pub(super) waiting: OwnedSemaphorePermit,
    /// Until it ends.
    pub(super) joined: OwnedSemaphorePermit,
}

/// Serves one `accept`. `relay` is where the control channel's peer is, where that is known.
pub(super) async fn serve(held: Arc<Held>, accept: Accept, relay: Option<IpAddr>, place: Place) {
    let Place { waiting, joined } = place;
    let mut line = Line {
        id: clean(&accept.id, SHOWN),
        remote: accept.remote_endpoint.map(|remote| format!("{}:{}", remote.address, remote.port)).unwrap_or_default(),
        began: Instant::now(),
        outcome: "abandoned",
        fault: "unknown",
        detail: String::new(),
        bytes_up: 0,
        bytes_down: 0,
        held: held.clone(),
        _joined: joined,
    };
    let force = held.context.shutdown.force_token();
    let prepared = tokio::select! {
        biased;
        () = force.cancelled() => return,
        prepared = timeout(SETUP, prepare(&held, &accept, relay, waiting)) => prepared.unwrap_or(Err(Failed::TooSlow)),
    };
    match prepared {
        Err(failed) => {
            line.outcome = failed.name();
            line.fault = failed.fault();
            line.detail = daemon::process::explain(&failed).replace('\n', ";");
        }
        // A task that remembers nothing of the dials.
        Ok((splice, noticed)) => {
            let signals =
                Signals { drain: held.context.shutdown.drain_token(), force, notice: noticed.then(drain_notice) };
            held.context.shutdown.spawn(relayed(splice, signals, line));
        }
    }
}

type Joined = Splice<sender::Transport, TcpStream>;

/// Everything up to the splice, and whether our subprotocol was agreed on. The place among the waiting is given up once
/// a dial may begin.
async fn prepare(
    held: &Held,
    accept: &Accept,
    relay: Option<IpAddr>,
    waiting: OwnedSemaphorePermit,
) -> Result<(Joined, bool), Failed> {
    let destination = held.permit.check(&accept.address)?;
    let _dialling = held.dials.acquire().await.map_err(|_| Failed::TooSlow)?;
    drop(waiting);
    let target =
        match timeout(TARGET, target(held, accept)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(target) => target,
            Err(error) => {
                say_no(held, &destination, relay, &error).await?;
                return Err(Failed::Target(error));
            }
        };
    let offered = accept.connect_headers.find("Sec-WebSocket-Protocol").unwrap_or_default();
    let noticed = held.forward.tunnel.is_some() && offered.split(',').any(|name| name.trim() == SUBPROTOCOL);
    let protocols: &[&str] = if noticed { &[SUBPROTOCOL] } else { &[] };
    let carrier = dial(held, &destination, relay).await?;
    let Destination { address, target: path } = &destination;
    let upgraded = sender::upgrade(carrier, address, path, &held.tls, HeaderMap::new(), protocols).await?;
    let framing = Framing::WebSocket(Role::Client);
    let from = Leg::new(upgraded.io, framing, upgraded.read_ahead, held.buffers.clone());
    let raw = Framing::Raw { skip_text: noticed };
    Ok((Splice::new(from, Leg::new(target, raw, BytesMut::new(), held.buffers.clone())), noticed))
}

/// Connects to the target, and says who is coming where that is wanted.
async fn target(held: &Held, accept: &Accept) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(held.forward.target()).await?;
    transport::prepare(&stream)?;
    if held.forward.proxy_protocol {
        let target = stream.peer_addr()?;
        // What a relay says may not earn the privileges of this machine: loopback, or nothing said, is an unknown source.
        let sender = accept
            .remote_endpoint
            .map(|remote| SocketAddr::new(remote.address, remote.port))
            .filter(|source| !source.ip().to_canonical().is_loopback())
            .unwrap_or_else(|| (std::net::Ipv4Addr::UNSPECIFIED, 0).into());
        stream.write_all(&proxy_v2::header(sender, target, &accept.id)).await?;
    }
    Ok(stream)
}

/// Finds the way to the rendezvous host, checks every address where there are any to check, and connects. Where a proxy
/// resolves the name, the checks of the address itself are all: `permit` has refused every literal but the relay's own.
async fn dial(held: &Held, destination: &Destination, relay: Option<IpAddr>) -> Result<Carrier, Failed> {
    let Address { host, port, .. } = &destination.address;
    let route = held.dialer.route(host, *port).await.map_err(DialError::Reach)?;
    if !route.addresses().unwrap_or_default().iter().all(|one| may_dial(one.ip(), relay)) {
        return Err(Refused::Address.into());
    }
    Ok(route.connect().await.map_err(DialError::Reach)?)
}

/// Rejects: the relay answers our dial with 410 and the sender with this status and text.
async fn say_no(
    held: &Held,
    destination: &Destination,
    relay: Option<IpAddr>,
    error: &io::Error,
) -> Result<(), Failed> {
    let text = format!("The listener cannot reach its target ({})", error.kind());
    let carrier = dial(held, destination, relay).await?;
    let path = reject(&destination.target, TARGET_DOWN, &text);
    match sender::upgrade(carrier, &destination.address, &path, &held.tls, HeaderMap::new(), &[]).await {
        Err(DialError::Upgrade(UpgradeError::Refused { status: 410, .. })) => Ok(()),
        Err(error) => Err(error.into()),
        // A relay that accepts a rejection has not understood it; dropping the connection ends the sender's.
        Ok(_) => Ok(()),
    }
}

async fn relayed(mut splice: Joined, signals: Signals, mut line: Line) {
    let held = line.held.clone();
    let metrics = &held.metrics;
    metrics.active_rendezvous.inc();
    let end = splice
        .run(signals, |up, down| {
            metrics.bytes_to_target.inc_by(up);
            metrics.bytes_to_sender.inc_by(down);
        })
        .await;
    metrics.active_rendezvous.dec();
    (line.bytes_up, line.bytes_down) = splice.bytes();
    line.outcome = end.name();
    line.fault = match end.side() {
        Some(Side::A) => "sender",
        Some(Side::B) => "target",
        None if matches!(end, End::Forced) => "listener",
        None => "none",
    };
    match &end {
        End::Lost(_, error) => line.detail = error.to_string(),
        End::Broken(_, error) => line.detail = error.to_string(),
        End::Cut(_, code) => line.detail = format!("close code {code}"),
        End::Complete | End::HalfClosed | End::Forced => {}
    }
    if !matches!(end, End::Complete) {
        // A FIN would make data that was cut short look whole; without the option the target sees one.
        let _ = splice.b().set_zero_linger();
    }
}
