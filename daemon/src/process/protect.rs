//! Keeps what is in memory there: keys and tokens of a process that crashes, or is looked at from beside it, must not end
//! in a file.
use std::io::Write as _;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Switches core dumps off, and tracing by other processes of the same user (SD-22). Called before anything is read that
/// is secret. Where the system forbids it the process goes on, and says so.
pub fn protect() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let done = setrlimit(Resource::Core, none).and(set_dumpable_behavior(DumpableBehavior::NotDumpable));
    if let Err(error) = done {
        // Nobody can be told that nobody can be told.
        let _ = writeln!(std::io::stderr(), "core dumps and tracing cannot be switched off: {error}");
    }
}
