//! The `gateway` program: the gateway in the cluster and the connector outside of it, as subcommands of one binary.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    daemon::process::protect();
    cli::run()
}
