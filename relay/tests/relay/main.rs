//! What the relay, the listener and the sender do, seen by foreign WebSocket clients over real sockets.
mod relaying;
mod support;
