//! The first bytes of the tunnel port (SD-10): from an accepted TCP connection to a transport that HTTP/2 may run on.
//!
//! ```text
//! [PROXY v2]  TLS ── ALPN causeway/1 (1.3 only) ───────────────────────────────► tunnel
//!                 ├─ ALPN h2 ───────────────────────────────────────────────────► tunnel
//!                 └─ ALPN http/1.1 or none ── upgrade ─┬─ TLS causeway/1 ───────► tunnel
//!                                                      └─ h2 preface ───────────► tunnel
//!             h1 upgrade, cleartext (loopback or `plaintext_from`) ── the same two; the preface from loopback only
//!             h2 preface, cleartext (loopback only) ────────────────────────────► tunnel
//! ```
//!
//! Everything else ends here: with an empty 404 if it was HTTP, by closing if it was not. All of it takes at most
//! [`DEADLINE`], reads at most [`peeked::ALLOWANCE`], and each refusal is one log line. Loopback counts as such only if
//! the connection is not forwarded for somebody else: a PROXY header that names another machine takes the privilege away.

pub mod gate;
pub mod peeked;
pub mod proxy;
mod refusal;
mod upgrade;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use identity::{
    principal::Principal,
    tls::{ServerTls, peer::peer_principal},
};
use proto::ws::{Role, stream::WsStream};
use rustls::{ProtocolVersion, ServerConnection, pki_types::CertificateDer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsAcceptor;

pub use refusal::Refusal;

use self::{
    gate::Ticket,
    peeked::{Allowance, Peeked},
};
use crate::serve::config::Listen;

/// A peer that says nothing at all is let go after this (SD-10).
pub const FIRST_BYTE: Duration = Duration::from_secs(5);

/// All handshakes together (SD-10).
pub const DEADLINE: Duration = Duration::from_secs(10);

/// First byte of a TLS record that carries a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// How an HTTP/2 connection preface begins, and nothing else that we take.
const PREFACE: &[u8] = b"PRI";

/// Any transport that HTTP/2 may run on.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}

impl<IO: AsyncRead + AsyncWrite + Unpin + Send> Transport for IO {}

/// One type for the five ways in, so that the session is compiled once.
pub type Io = Box<dyn Transport>;

/// How a connection came in; in logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// TLS with ALPN `causeway/1`: the inner session of a relay's byte stream.
    Inner,
    /// TLS with ALPN `h2`.
    Http2,
    /// WebSocket in our own TLS.
    WebSocket,
    /// WebSocket with an inner TLS session in it.
    WebSocketInner,
    /// Cleartext from this machine.
    Loopback,
}

impl Way {
    /// In logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inner => "inner_tls",
            Self::Http2 => "tls_h2",
            Self::WebSocket => "tls_websocket",
            Self::WebSocketInner => "websocket_inner_tls",
            Self::Loopback => "loopback_cleartext",
        }
    }
}

/// A connection that spoke the grammar.
pub struct Admitted {
    /// What HTTP/2 runs on.
    pub io: Io,
    /// Who it is from: the TCP peer, or the source in its PROXY header.
    pub peer: SocketAddr,
    /// The id that the listener gave it in the PROXY header.
    pub id: Option<String>,
    /// Its client certificate.
    pub certificate: Option<Certificate>,
    /// How it came in.
    pub way: Way,
    /// Its place among those who have proven nothing yet.
    pub ticket: Ticket,
}

/// A client certificate that a finished handshake has verified.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// Whom it names.
    pub principal: Principal,
    /// The chain that was shown, to be judged again when the CAs or their revocation lists change.
    pub chain: Vec<CertificateDer<'static>>,
}

impl std::fmt::Debug for Admitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admitted").field("peer", &self.peer).field("way", &self.way).finish_non_exhaustive()
    }
}

/// What a peer may do before it has proven anything.
#[derive(Debug, Clone, Copy)]
struct Trusted {
    /// Cleartext HTTP/2 without any TLS.
    cleartext_http2: bool,
    /// Cleartext WebSocket.
    cleartext_websocket: bool,
}

impl Trusted {
    /// `forwarded_for` is the source in the PROXY header: whoever forwards for others is not local.
    fn of(peer: IpAddr, forwarded_for: Option<IpAddr>, listen: &Listen) -> Self {
        let local = peer.to_canonical().is_loopback() && forwarded_for.is_none_or(|ip| ip.to_canonical().is_loopback());
        Self { cleartext_http2: local, cleartext_websocket: local || listen.plaintext_from.contains(peer) }
    }
}

/// Takes a connection through the grammar. `ticket` counts it among the handshakes in flight, here and until somebody on it
/// has proven who they are.
///
/// # Errors
/// Why the connection was refused; whatever answer was due has been sent.
pub async fn admit(
    tcp: TcpStream,
    peer: SocketAddr,
    listen: &Listen,
    tls: &ServerTls,
    mut ticket: Ticket,
) -> Result<Admitted, Refusal> {
    let begin = Instant::now();
    let deadline = begin + DEADLINE;
    let allowance = Arc::new(Allowance::default());
    let mut io = Peeked::new(tcp, Arc::clone(&allowance));
    match timeout_at(begin + FIRST_BYTE, io.fill(1)).await {
        Ok(filled) => filled?,
        Err(_) => return Err(Refusal::Silent),
    }
    let admitted = timeout_at(deadline, async {
        let header = if io.peek().first() == Some(&proxy::SIGNATURE[0]) {
            if !listen.proxy_protocol_from.contains(peer.ip()) {
                return Err(Refusal::ProxyHeader);
            }
            let header = proxy::read(&mut io).await?;
            ticket.rename(header.source.unwrap_or(peer).ip())?;
            header
        } else {
            ticket.rename(peer.ip())?;
            proxy::Header::default()
        };
        let trusted = Trusted::of(peer.ip(), header.source.map(|source| source.ip()), listen);
        let (io, way, certificate) = outer(io, trusted, tls).await?;
        Ok(Admitted { io, peer: header.source.unwrap_or(peer), id: header.id, certificate, way, ticket })
    })
    .await
    .unwrap_or(Err(Refusal::Late))?;
    allowance.lift();
    Ok(admitted)
}

type Opened = (Io, Way, Option<Certificate>);

/// What may stand first, or behind a PROXY header.
async fn outer(mut io: Peeked<TcpStream>, trusted: Trusted, tls: &ServerTls) -> Result<Opened, Refusal> {
    io.fill(PREFACE.len()).await?;
    match io.start(PREFACE.len()) {
        [TLS_HANDSHAKE, ..] => {
            let session = TlsAcceptor::from(tls.current()).accept(io).await.map_err(Refusal::Tls)?;
            let certificate = certificate(session.get_ref().1)?;
            match session.get_ref().1.alpn_protocol() {
                Some(proto::tunnel::ALPN)
                    if session.get_ref().1.protocol_version() != Some(ProtocolVersion::TLSv1_3) =>
                {
                    Err(Refusal::OldTls)
                }
                Some(proto::tunnel::ALPN) => Ok((Box::new(session), Way::Inner, certificate)),
                Some(b"h2") => Ok((Box::new(session), Way::Http2, certificate)),
                _ => websocket(Box::new(session), Some((Way::WebSocket, certificate)), tls).await,
            }
        }
        PREFACE if trusted.cleartext_http2 => Ok((Box::new(io), Way::Loopback, None)),
        PREFACE => Err(Refusal::Cleartext),
        [first, ..] if first.is_ascii_uppercase() && trusted.cleartext_websocket => {
            let local = trusted.cleartext_http2.then_some((Way::Loopback, None));
            websocket(Box::new(io), local, tls).await
        }
        [first, ..] if first.is_ascii_uppercase() => {
            upgrade::refuse(Box::new(io)).await;
            Err(Refusal::Cleartext)
        }
        _ => Err(Refusal::Garbage),
    }
}

/// The upgrade, and what may stand behind it. `bare` is what the connection is without an inner session, if the session
/// around it suffices.
async fn websocket(io: Io, bare: Option<(Way, Option<Certificate>)>, tls: &ServerTls) -> Result<Opened, Refusal> {
    // Only this layer's bytes are looked at here; what was read is counted where it leaves the socket.
    let mut io = Peeked::new(io, Allowance::counted_elsewhere());
    io.fill(PREFACE.len()).await?;
    match io.start(PREFACE.len()) {
        PREFACE => return Err(Refusal::WrongProtocol),
        [first, ..] if first.is_ascii_uppercase() => {}
        _ => return Err(Refusal::WrongProtocol),
    }
    let (io, read_ahead) = upgrade::accept(Box::new(io)).await?;
    let mut io = Peeked::new(WsStream::new(io, Role::Server, read_ahead), Allowance::counted_elsewhere());
    io.fill(PREFACE.len()).await?;
    match (io.start(PREFACE.len()), bare) {
        ([TLS_HANDSHAKE, ..], _) => {
            let session = TlsAcceptor::from(tls.inner()).accept(io).await.map_err(Refusal::Tls)?;
            if session.get_ref().1.alpn_protocol() != Some(proto::tunnel::ALPN) {
                return Err(Refusal::WrongProtocol);
            }
            let certificate = certificate(session.get_ref().1)?;
            Ok((Box::new(session), Way::WebSocketInner, certificate))
        }
        (PREFACE, Some((way, certificate))) => Ok((Box::new(io), way, certificate)),
        (PREFACE, None) => Err(Refusal::InnerSession),
        _ => Err(Refusal::Garbage),
    }
}

fn certificate(session: &ServerConnection) -> Result<Option<Certificate>, Refusal> {
    let Some(chain) = session.peer_certificates() else { return Ok(None) };
    let principal = peer_principal(chain).map_err(Refusal::Certificate)?;
    Ok(Some(Certificate { principal, chain: chain.iter().cloned().map(CertificateDer::into_owned).collect() }))
}

#[cfg(test)]
mod tests;
