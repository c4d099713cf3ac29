//! What the relay, the listener and the sender do, seen by foreign WebSocket clients over real sockets.
#![expect(clippy::unwrap_used, reason = "a panic is how a test says no")]

mod access;
mod check;
mod conformance_websocket;
mod control;
mod events;
mod frames;
mod handshake;
mod hostile;
mod hostile_addresses;
mod hostile_floods;
mod hostile_frames;
mod hostile_heads;
mod hostile_json;
mod hostile_listeners;
mod hostile_strings;
mod http;
mod jwt;
mod limits;
mod listen_hostile;
mod listen_http;
mod listen_web;
mod listener;
mod proxied;
mod relaying;
mod reload;
mod rendezvous;
mod script;
mod sender;
mod storm;
mod support;
mod tokens;
mod unresponsive;
mod websocket_conformance;
