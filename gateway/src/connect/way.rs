//! A way to a gateway: everything from a name to a tunnel on which the gateway has proven its identity (SD-1) and the
//! connector its own. One deadline covers all of it; each failure names its stage, a stable code, cause and remedy.
//!
//! No token, metadata or stream leaves before the proof: in the outer TLS session if that shows the cluster's own
//! certificate, else in an inner TLS 1.3 session inside the WebSocket.
pub(crate) mod avoided;
pub(crate) mod candidate;
mod dial;
pub mod error;
pub(crate) mod follow;
pub(crate) mod proof;
mod url;

use std::{
    fmt,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use daemon::{admin::Events, clock::SharedClock};
use http::{HeaderMap, Uri};
use prometheus_client::metrics::counter::Counter;
use proto::{
    limits::TUNNEL_SETUP_DEADLINE,
    tunnel::{
        SUBPROTOCOL, UPGRADE_PATH,
        budget::{Budget, Party},
        client::{self, Client, ConnectionError},
        failure::{Code, Failure},
        pb,
        settings::Settings,
    },
    ws::{Role, handshake, stream::WsStream},
};
use relay::{
    sender,
    transport::{Ahead, ReadsAhead as _},
};
use rustls::{RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use self::{
    avoided::Avoided,
    error::{Cause, Stage, WayCode, WayError},
    follow::Follow,
    proof::Proof,
};
use super::actor::Actor;

pub use self::url::{DirectUrl, DirectUrlError};

/// One configured way, ready to be tried.
#[derive(Debug)]
pub(crate) enum Way {
    /// Straight to the gateway's tunnel port.
    Direct(DirectUrl),
    /// Through a hybrid connection of a relay.
    HybridConnection(Relayed),
}

/// A hybrid connection that leads to a gateway.
#[derive(Debug)]
pub(crate) struct Relayed {
    /// Where the relay is.
    pub(crate) address: sender::Address,
    /// The right to send.
    pub(crate) credential: sender::Credential,
    /// Listeners that led to no gateway.
    pub(crate) avoided: Avoided,
}

impl Way {
    /// The kind, as in logs.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Direct(_) => "direct",
            Self::HybridConnection(_) => "relay",
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(url) => url.fmt(f),
            Self::HybridConnection(relayed) => relayed.address.fmt(f),
        }
    }
}

/// Drives a tunnel's connection until it ends.
pub(crate) type Driver = Pin<Box<dyn Future<Output = Result<(), ConnectionError>> + Send>>;

/// A tunnel that is up: proven, described, its connector bound.
pub(crate) struct Opened {
    pub(crate) client: Client,
    pub(crate) driver: Driver,
    /// Text messages of the outer WebSocket: hints that a relay or listener goes away.
    pub(crate) notices: mpsc::Receiver<String>,
    /// What the gateway said about itself.
    pub(crate) state: pb::DescribeResponse,
    /// Kind of the way taken.
    pub(crate) way: &'static str,
    /// Address of the way taken.
    pub(crate) address: String,
    /// Key fingerprint of the CA that vouched for the gateway.
    pub(crate) identity: String,
    /// What takes over the CAs that this gateway tells of.
    pub(crate) follow: Follow,
    /// How long it took.
    pub(crate) took: Duration,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Time for the proof inside a relayed connection: two round trips. Who takes longer is passed over while there is time
/// left for another listener.
const PROOF_DEADLINE: Duration = Duration::from_secs(4);

/// Listeners tried within one attempt, so that an attempt ends though all of them be thieves.
const LISTENERS_TRIED: usize = 4;

/// What a relay answers when nobody listens but those whom we avoid.
const NOT_FOUND: u16 = 404;

/// The step that is being taken, so that a deadline can say where it struck.
#[derive(Debug)]
struct Progress(Mutex<Stage>);

impl Progress {
    fn at(&self, stage: Stage) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    fn stage(&self) -> Stage {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What all ways of one cluster share.
#[derive(Debug)]
pub(crate) struct Opener {
    pub(crate) cluster: Arc<str>,
    /// The trust file.
    pub(crate) trust: PathBuf,
    /// Roots of outer sessions that are not the gateway's own.
    pub(crate) roots: RootCertStore,
    /// How relays and gateways are dialled.
    pub(crate) sender: sender::Sender,
    pub(crate) actor: Actor,
    pub(crate) clock: SharedClock,
    /// Keeps the trust file up to date, if that is wanted.
    pub(crate) follow: Follow,
    /// What all tunnels of this process hold.
    pub(crate) budget: Budget,
    /// Counts peers that did not prove to be the gateway.
    pub(crate) mismatches: Counter,
    /// Tells of them.
    pub(crate) events: Events,
}

/// Read at once below TLS, which asks for 4 KiB at a time: four records.
const READ_AHEAD: usize = 64 * 1024;

/// A byte stream whose other end has proven to be the gateway.
struct Proven<IO> {
    io: IO,
    notices: mpsc::Receiver<String>,
    identity: String,
}

impl Opener {
    /// Takes a way to its end, within [`TUNNEL_SETUP_DEADLINE`].
    pub(crate) async fn open(&self, way: &Way) -> Result<Opened, WayError> {
        let progress = Progress(Mutex::new(Stage::Token));
        // On the heap: the handshakes' state is large, and gone once the tunnel is up.
        let steps = Box::pin(self.steps(way, &progress));
        match timeout(TUNNEL_SETUP_DEADLINE, steps).await {
            Ok(result) => result,
            Err(_) => Err(WayError::new(progress.stage(), WayCode::TimedOut, Cause::Silent(TUNNEL_SETUP_DEADLINE))),
        }
    }

    async fn steps(&self, way: &Way, progress: &Progress) -> Result<Opened, WayError> {
        let began = Instant::now();
        let proof = Proof::read(&self.trust, &self.cluster)
            .map_err(|error| WayError::new(Stage::Token, WayCode::TrustUnusable, error))?;
        // Fetched first and sent last: a connector without a token has no reason to knock.
        let metadata = self
            .actor
            .metadata()
            .await
            .map_err(|error| WayError::new(Stage::Token, WayCode::TokenUnavailable, error))?;
        let mut opened = match way {
            Way::Direct(url) => {
                let opened = Box::pin(self.direct(url, &proof, metadata, progress)).await;
                opened.inspect_err(|error| {
                    if error.code == WayCode::IdentityMismatch {
                        self.report(way, None);
                    }
                })?
            }
            Way::HybridConnection(relayed) => {
                let proven = Box::pin(self.past_impostors(way, relayed, &proof, progress)).await?;
                self.tunnel(proven, metadata, progress).await?
            }
        };
        opened.way = way.kind();
        opened.address = way.to_string();
        opened.took = began.elapsed();
        Ok(opened)
    }

    async fn direct(
        &self,
        url: &DirectUrl,
        proof: &Proof,
        metadata: HeaderMap,
        progress: &Progress,
    ) -> Result<Opened, WayError> {
        let mut tcp = Ahead::new(dial::reach(self.sender.dialer(), url, progress).await?);
        tcp.read_ahead(READ_AHEAD);
        if !url.tls {
            let ws = upgrade(tcp, url, progress).await?;
            let proven = self.inner(ws, proof, progress).await?;
            return self.tunnel(proven, metadata, progress).await;
        }
        progress.at(Stage::Tls);
        let name = ServerName::try_from(url.host.clone())
            .map_err(|_| WayError::new(Stage::Tls, WayCode::TlsFailed, Cause::Said("the host is no server name")))?;
        let config = proof.outer(self.roots.clone());
        let outer = TlsConnector::from(config).connect(name, tcp).await.map_err(|error| {
            let mismatch = identity::tls::cluster::is_identity_mismatch(&error);
            let code = if mismatch { WayCode::IdentityMismatch } else { WayCode::TlsFailed };
            WayError::new(Stage::Tls, code, error)
        })?;
        let chain = outer.get_ref().1.peer_certificates();
        let now = self.clock.now();
        if proof.proves(chain, now) {
            let identity = proof.fingerprint(chain, now);
            let mut io = upgrade(outer, url, progress).await?;
            let notices = io.notices();
            return self.tunnel(Proven { io, notices, identity }, metadata, progress).await;
        }
        let ws = upgrade(outer, url, progress).await?;
        let proven = self.inner(ws, proof, progress).await?;
        self.tunnel(proven, metadata, progress).await
    }

    /// A proven stream through a relay. Whoever listens without being the gateway is left behind, and the next listener
    /// is asked for at once: a thief among listeners costs a moment and no request.
    async fn past_impostors(
        &self,
        way: &Way,
        Relayed { address, credential, avoided }: &Relayed,
        proof: &Proof,
        progress: &Progress,
    ) -> Result<Proven<TlsStream<WsStream<sender::Transport>>>, WayError> {
        let mut tried = 1;
        loop {
            // The sender resolves, connects and upgrades; its errors say which step failed.
            progress.at(Stage::Upgrade);
            let avoid = avoided.ids();
            let request = sender::Request { protocols: &[SUBPROTOCOL], avoid: &avoid, ..sender::Request::default() };
            let dialled = self.sender.dial(address, credential, request).await;
            if dialled.as_ref().is_err_and(|error| matches!(error.refusal(), Some((NOT_FOUND, _)))) {
                // Nobody else is there; the next attempt takes whom it gets.
                avoided.forget();
            }
            let mut connected = dialled.map_err(error::of_relay)?;
            connected.stream.get_mut().read_ahead(READ_AHEAD);
            let listener = connected.listener;
            let proving = timeout(PROOF_DEADLINE, self.inner(connected.stream, proof, progress));
            let error = match proving.await {
                Ok(Ok(proven)) => return Ok(proven),
                Ok(Err(error)) => error,
                Err(_) => WayError::new(Stage::InnerTls, WayCode::TimedOut, Cause::Silent(PROOF_DEADLINE)),
            };
            if error.code == WayCode::IdentityMismatch {
                self.report(way, listener.as_deref());
            }
            // Without a name there is nothing to avoid, and the same listener may answer again.
            let Some(listener) = listener.filter(|_| error.stage == Stage::InnerTls) else { return Err(error) };
            avoided.add(&listener);
            if tried == LISTENERS_TRIED {
                return Err(error);
            }
            tried += 1;
        }
    }

    /// Somebody else answered in the gateway's place.
    fn report(&self, way: &Way, listener: Option<&str>) {
        self.mismatches.inc();
        let fields = [
            ("cluster", serde_json::Value::from(&*self.cluster)),
            ("way", way.kind().into()),
            ("address", way.to_string().into()),
            ("listener", listener.into()),
        ];
        self.events.emit("gateway_identity_mismatch", fields);
        tracing::warn!(
            cluster = %self.cluster,
            way = way.kind(),
            address = %way,
            listener = listener.unwrap_or("unknown"),
            "who answered did not prove to be the gateway and was told nothing"
        );
    }

    /// Makes the peer prove its identity inside a WebSocket.
    async fn inner<IO>(
        &self,
        mut ws: WsStream<IO>,
        proof: &Proof,
        progress: &Progress,
    ) -> Result<Proven<TlsStream<WsStream<IO>>>, WayError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        progress.at(Stage::InnerTls);
        let notices = ws.notices();
        let io = proof.inner(ws).await?;
        let identity = proof.fingerprint(io.get_ref().1.peer_certificates(), self.clock.now());
        Ok(Proven { io, notices, identity })
    }

    /// HTTP/2 and the first call, which carries the connector's token.
    async fn tunnel<IO>(&self, proven: Proven<IO>, metadata: HeaderMap, progress: &Progress) -> Result<Opened, WayError>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        progress.at(Stage::Http2);
        let parties = vec![Party { kind: "cluster", name: Arc::clone(&self.cluster) }];
        let settings = Settings { budget: self.budget.clone(), parties, ..Settings::default() };
        let http2 = |error: ConnectionError| WayError::new(Stage::Http2, WayCode::Http2Failed, error);
        let (client, driver) = client::connect(proven.io, settings).await.map_err(http2)?;
        let mut driver: Driver = Box::pin(driver);
        progress.at(Stage::Describe);
        let state = tokio::select! {
            biased;
            state = client.describe(metadata) => state.map_err(|failure| self.describe_refused(failure))?,
            ended = &mut driver => {
                return Err(match ended {
                    Err(error) => http2(error),
                    Ok(()) => WayError::new(Stage::Describe, WayCode::Http2Failed, Cause::Said("the gateway hung up")),
                });
            }
        };
        if state.cluster != *self.cluster {
            let cause = Cause::Said("it proved to be of this cluster, and says that it is of another");
            return Err(WayError::new(Stage::Describe, WayCode::DescribeRefused, cause));
        }
        Ok(Opened {
            client,
            driver,
            notices: proven.notices,
            state,
            way: "",
            address: String::new(),
            identity: proven.identity,
            follow: self.follow.clone(),
            took: Duration::ZERO,
        })
    }

    fn describe_refused(&self, failure: Failure) -> WayError {
        if matches!(failure.code, Code::Unauthenticated | Code::TokenRefused) {
            self.actor.refused();
        }
        WayError::new(Stage::Describe, WayCode::DescribeRefused, Cause::Refused(failure))
    }
}

/// The WebSocket upgrade of a direct way.
async fn upgrade<IO>(io: IO, url: &DirectUrl, progress: &Progress) -> Result<WsStream<IO>, WayError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    progress.at(Stage::Upgrade);
    let uri = Uri::builder()
        .scheme(if url.tls { "https" } else { "http" })
        .authority(url.authority())
        .path_and_query(UPGRADE_PATH)
        .build()
        .map_err(|_| WayError::new(Stage::Upgrade, WayCode::UpgradeBroken, Cause::Said("the address is no URL")))?;
    let upgraded = handshake::client(io, &uri, HeaderMap::new(), &[SUBPROTOCOL]).await.map_err(|error| {
        let refused = matches!(error, handshake::UpgradeError::Refused { .. });
        let code = if refused { WayCode::UpgradeRefused } else { WayCode::UpgradeBroken };
        WayError::new(Stage::Upgrade, code, error)
    })?;
    if upgraded.protocol.as_deref() != Some(SUBPROTOCOL) {
        let cause = Cause::Said("the server did not choose the tunnel's subprotocol");
        return Err(WayError::new(Stage::Upgrade, WayCode::UpgradeBroken, cause));
    }
    Ok(WsStream::new(upgraded.io, Role::Client, upgraded.read_ahead))
}

#[cfg(test)]
mod tests;
