//! End to end: the real programs as processes, real clients in front of them, real services behind them.
//!
//! Each module is one claim about the whole; the tests' names, read aloud, are the specification.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails, in its own functions too")]

mod bad_input;
mod bulk;
mod check;
mod clients;
mod cold_start;
mod command_line;
mod exposure;
mod half_open;
mod how_to;
mod kubernetes;
mod owner;
mod privacy;
mod protocols;
mod proxy;
mod recovery;
mod rolling;
mod sdk_browser;
mod sdk_curl;
mod sdk_https;
mod sdk_python;
mod sdk_ws;
mod service;
mod shutdown;
mod sidecar;
mod thief;
mod traces;
