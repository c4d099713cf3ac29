//! The relay (a Hybrid Connections server), the listener on the cluster's side, and the sender.

pub mod listen;
pub mod sender;
pub mod serve;
