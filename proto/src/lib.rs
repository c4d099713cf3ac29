//! What both ends of a Causeway connection must agree on: the tunnel contract and its HTTP/2 framing, the WebSocket
//! byte stream that carries it, Hybrid Connections messages and addresses, limits with their reasons, and retry.

pub mod hybrid;
pub mod limits;
pub mod retry;
pub mod tunnel;
pub mod ws;
