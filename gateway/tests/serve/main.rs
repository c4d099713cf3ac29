//! A running gateway, called through real tunnels, with real targets behind it.
#![expect(clippy::unwrap_used, reason = "a panic is how a test says no")]

mod audit;
mod buffers;
mod http;
mod http2;
mod identity_of_callers;
mod kubernetes;
mod lifecycle;
mod limits;
mod policy;
mod revocation;
mod services;
mod sockets;
mod support;
mod target;
mod tcp;
mod tls;
mod upgrade;
mod workers;
