//! The grammar of the first bytes, over real sockets: what comes in, what does not, and when it is let go.

mod bench;
mod refused;
mod ways;
