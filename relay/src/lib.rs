//! The relay (a Hybrid Connections server), the listener on the cluster's side, and the sender.
//!
//! [`serve`] is dialled by both others; [`listen`] and [`sender`] dial it, or Azure Relay, which speaks the same
//! protocol, straight or through a proxy ([`dial`]). What the relay and the listener have in common is the hot path, [`splice`].

pub mod check;
pub mod dial;
pub mod entity;
mod farewell;
pub mod listen;
pub mod send;
pub mod sender;
pub mod serve;
pub mod splice;
pub mod token;
pub mod transport;
