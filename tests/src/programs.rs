//! Where the programs are, and how each is started.
use std::{ffi::OsString, path::PathBuf};

use crate::process::{Process, Spec};

/// The repository.
pub fn repository() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A program of the workspace: in the folder that `CAUSEWAY_BIN` names, else in that of the build profile of this test.
///
/// # Panics
/// When it has not been built; the message says how.
pub fn program(name: &str) -> PathBuf {
    let folder = std::env::var_os("CAUSEWAY_BIN").map_or_else(
        || {
            // target/<profile>/deps/e2e-…: up two.
            let test = std::env::current_exe().expect("a test knows its own path");
            test.ancestors().nth(2).expect("a test lies in target/<profile>/deps").to_owned()
        },
        PathBuf::from,
    );
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} has not been built: run `tests/run e2e`, or `cargo build -p relay -p gateway -p identity` and the test again",
        path.display()
    );
    path
}

/// How a program of ours is started.
pub fn spec<I: IntoIterator<Item = S>, S: Into<OsString>>(
    name: &str,
    program_name: &str,
    directory: impl Into<PathBuf>,
    args: I,
) -> Spec {
    Spec {
        name: name.to_owned(),
        program: program(program_name),
        args: args.into_iter().map(Into::into).collect(),
        env: Vec::new(),
        directory: directory.into(),
    }
}

/// Starts a program of ours.
pub fn start<I: IntoIterator<Item = S>, S: Into<OsString>>(
    name: &str,
    program_name: &str,
    directory: impl Into<PathBuf>,
    args: I,
) -> Process {
    Process::start(spec(name, program_name, directory, args))
}
