//! `gateway serve`.

use std::process::ExitCode;

use clap::Args;
use daemon::process::{CommonArgs, Program, Threads};

use super::Failed;

/// The gateway's program. Its tunnels are spread over the cores.
const PROGRAM: Program =
    Program { name: "gateway serve", metrics: "causeway_gateway", admin_port: 9320, threads: Threads::Workers };

/// Arguments of `gateway serve`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    common: CommonArgs,
}

#[expect(clippy::unnecessary_wraps, reason = "every subcommand has the same shape")]
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failed> {
    Ok(daemon::process::run(&PROGRAM, &arguments.common, gateway::serve::start))
}
