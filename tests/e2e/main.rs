//! End to end: the real programs as processes, real clients in front of them, real services behind them.
//!
//! Each module is one claim about the whole; the tests' names, read aloud, are the specification.

mod clients;
