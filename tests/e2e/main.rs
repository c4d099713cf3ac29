//! End to end: the real programs as processes, real clients in front of them, real services behind them.
//!
//! Each module is one claim about the whole; the tests' names, read aloud, are the specification.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails, in its own helpers too")]

mod clients;
