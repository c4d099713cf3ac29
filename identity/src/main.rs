//! The `identity` program: tokens for workloads, as subcommands of one binary.
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use daemon::{
    config::EXIT_BAD_CONFIG,
    process::{CommonArgs, Program, Threads},
};
use identity::{sidecar, tls};

/// Gives workloads short-lived tokens.
#[derive(Debug, Parser)]
#[command(name = "identity", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve managed-identity tokens on loopback to unmodified Azure SDKs of one pod.
    ///
    /// Set IDENTITY_ENDPOINT=http://127.0.0.1:40345/msi/token and IDENTITY_HEADER in the workload's environment, and add
    /// 127.0.0.1,localhost to NO_PROXY and no_proxy.
    Sidecar(CommonArgs),
}

/// One thread: it stands beside every model server, and its work is a look-up.
const SIDECAR: Program =
    Program { name: "identity sidecar", metrics: "causeway_sidecar", admin_port: 40346, threads: Threads::One };

fn main() -> ExitCode {
    daemon::process::protect();
    tls::install_provider();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A failed write of the help text leaves nobody to tell.
            let _unwritable = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_BAD_CONFIG) } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Command::Sidecar(arguments) => daemon::process::run(&SIDECAR, &arguments, sidecar::start),
    }
}
