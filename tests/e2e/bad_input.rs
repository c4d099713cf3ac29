//! Bad input ends in a prompt and precise error at whoever can act on it, in one log line, within its deadline, and with
//! memory back to where it was.

mod connections;
mod targets;
mod tokens;

use std::time::Duration;

/// Longest that any of these tests may take.
const LIMIT: Duration = Duration::from_secs(120);
