//! `gateway trust`.

use std::process::ExitCode;

use clap::Args;

use super::{ConfigFile, Failed};

/// Arguments of `gateway trust`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failed> {
    super::answer("")?;
    let _ = &arguments.file.config;
    todo!()
}
