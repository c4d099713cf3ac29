//! A tunnel: one HTTP/2 connection that carries gRPC calls, driven by the `h2` crate on both ends.

pub mod budget;
pub mod client;
pub mod deadline;
pub mod failure;
pub mod hold;
pub mod message;
pub mod method;
pub mod receive;
pub mod server;
pub mod settings;

mod in_flight;
mod inbound;
mod liveness;
mod lost;
mod other;
mod send;
mod status;
mod window;

/// Messages and service traits generated from `tunnel.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::nursery, unreachable_pub)]
pub mod pb {
    tonic::include_proto!("causeway.tunnel.v1");
}

/// The gRPC error model's messages.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::nursery, unreachable_pub)]
pub mod rpc {
    tonic::include_proto!("google.rpc");
}

/// Encoded `FileDescriptorSet` of the contract, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tunnel.descriptors"));

/// ALPN of a tunnel's own TLS session, outer or inner.
pub const ALPN: &[u8] = b"causeway/1";

/// WebSocket subprotocol of a tunnel.
pub const SUBPROTOCOL: &str = "causeway.v1";

/// The one HTTP path on which the tunnel port upgrades.
pub const UPGRADE_PATH: &str = "/causeway/v1/tunnel";

#[cfg(test)]
mod tests;
