//! `gateway connect`.

use std::process::ExitCode;

use clap::Args;

use super::{ConfigFile, Failed};

/// Arguments of `gateway connect`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failed> {
    let _ = (&arguments.file.config, super::runtime()?);
    todo!()
}
