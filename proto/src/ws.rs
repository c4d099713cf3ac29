//! WebSocket (RFC 6455) as a byte pipe: a frame codec without I/O, an `AsyncRead + AsyncWrite` driver on it, a small
//! bounded message API for control channels, and the handshake of both sides.
//!
//! No extension is ever negotiated: payload is TLS or already compressed, and `permessage-deflate` costs memory per
//! connection. Whatever a peer sends, memory stays bounded and the failure names the rule that was broken.

pub mod flood;
pub mod frame;
pub mod handshake;
pub mod keys;
pub mod mask;
pub mod message;
pub mod stream;

/// Which end of the WebSocket we are: clients mask what they send, servers must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// We dialled.
    Client,
    /// We were dialled.
    Server,
}
