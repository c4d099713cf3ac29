//! `gateway audit verify`: whether audit files still say what was written. Exit code 0 if they do, 1 if not.

use std::{fs::File, io::BufReader, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Args, Subcommand};
use daemon::{audit, process::explain};

use super::Failed;

/// Arguments of `gateway audit`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check that no line was changed, removed, added or moved after it was written.
    ///
    /// A tail that was cut off leaves no trace in the file: compare the hash of the last line with one kept elsewhere.
    /// Exit codes: 0 the chain is whole, 1 it is broken or cannot be read.
    Verify {
        /// Audit files, each a chain of its own.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failed> {
    let Command::Verify { files } = &arguments.command;
    let mut code = ExitCode::SUCCESS;
    for path in files {
        let file = File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
        let said = match audit::verify(BufReader::new(file)) {
            Ok(verified) => format!(
                "whole: {} lines of {} processes, {} cut off by a crash, {} events that could not be written, last {}",
                verified.lines, verified.instances, verified.torn, verified.lost, verified.last
            ),
            Err(broken) => {
                code = ExitCode::FAILURE;
                format!("broken: {}", explain(&broken))
            }
        };
        super::answer(&format!("{}: {said}\n", path.display()))?;
    }
    Ok(code)
}
