//! `gateway connect`.

use std::process::ExitCode;

use clap::Args;
use daemon::process::{CommonArgs, Program, Threads};

use super::Failed;

/// The connector's program. Its tunnels and their clients are spread over the cores.
const PROGRAM: Program =
    Program { name: "gateway connect", metrics: "causeway_connector", admin_port: 9330, threads: Threads::Workers };

/// Arguments of `gateway connect`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    common: CommonArgs,
}

#[expect(clippy::unnecessary_wraps, reason = "every subcommand has the same shape")]
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failed> {
    Ok(daemon::process::run(&PROGRAM, &arguments.common, gateway::connect::start))
}
