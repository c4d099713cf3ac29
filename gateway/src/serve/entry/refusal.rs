//! Why a connection was refused before it became a tunnel: a closed list, one log line each.

use std::io;

use identity::tls::peer::PeerError;

use super::{gate::Full, proxy::ProxyError};

/// Why a connection was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No first byte in time.
    #[error("the peer connected and said nothing")]
    Silent,
    /// Not done in time.
    #[error("the handshakes took too long")]
    Late,
    /// The peer went away, or read or wrote more than it may.
    #[error("the connection broke during the handshakes")]
    Io(#[from] io::Error),
    /// The peer went away in the middle.
    #[error("the peer closed during the handshakes")]
    Closed,
    /// More handshakes in flight than allowed.
    #[error("too many handshakes in flight: {0}")]
    Full(#[from] Full),
    /// As many tunnels as allowed.
    #[error("limits.tunnels is reached")]
    Tunnels,
    /// A PROXY header from somebody who may not send one.
    #[error("a PROXY header from a peer outside of proxy_protocol_from")]
    ProxyHeader,
    /// A broken PROXY header.
    #[error("the PROXY header is not valid: {0}")]
    Proxy(#[from] ProxyError),
    /// Cleartext from somebody who may not speak it.
    #[error("cleartext from a peer that is neither loopback nor in plaintext_from")]
    Cleartext,
    /// HTTP/2 without TLS where the inner session is required.
    #[error("no inner TLS session, which is required when the outer one is not ours")]
    InnerSession,
    /// A TLS handshake that failed.
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    /// `causeway/1` over TLS 1.2.
    #[error("the session of a tunnel is TLS 1.3")]
    OldTls,
    /// A client certificate that names nobody.
    #[error("the client certificate cannot be used: {0}")]
    Certificate(PeerError),
    /// Bytes that are not of the protocol that ALPN promised.
    #[error("the bytes do not match the negotiated protocol")]
    WrongProtocol,
    /// Neither TLS nor HTTP.
    #[error("the first bytes are of no protocol that is spoken here")]
    Garbage,
    /// An HTTP request other than the upgrade.
    #[error("an HTTP request that is not the upgrade: answered {status}, {reason}")]
    Request {
        /// The answer's status.
        status: u16,
        /// Why.
        reason: &'static str,
    },
    /// HTTP that cannot be parsed.
    #[error("the HTTP request cannot be read")]
    Http(#[source] hyper::Error),
}

impl Refusal {
    /// In logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Late => "late",
            Self::Io(_) => "io",
            Self::Closed => "closed",
            Self::Full(_) => "full",
            Self::Tunnels => "tunnels",
            Self::ProxyHeader => "proxy_header_not_allowed",
            Self::Proxy(_) => "proxy_header_invalid",
            Self::Cleartext => "cleartext",
            Self::InnerSession => "inner_session_missing",
            Self::Tls(_) => "tls",
            Self::OldTls => "old_tls",
            Self::Certificate(_) => "client_certificate",
            Self::WrongProtocol => "wrong_protocol",
            Self::Garbage => "garbage",
            Self::Request { .. } => "not_the_upgrade",
            Self::Http(_) => "http",
        }
    }
}
