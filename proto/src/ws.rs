//! WebSocket (RFC 6455) as a byte pipe: a frame codec without I/O, an `AsyncRead + AsyncWrite` driver on it, a small
//! bounded message API for control channels, and the handshake of both sides.

pub mod frame;
pub mod handshake;
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
