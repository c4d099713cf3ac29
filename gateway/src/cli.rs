//! The command line: one file per subcommand. Results go to standard output, everything else to standard error. Exit
//! codes: 0 done or drained, 1 failed (or denied), 64 bad configuration or command line.

mod audit;
mod call;
mod connect;
mod describe;
mod kubeconfig;
mod policy;
mod serve;
mod trust;

use std::{io::Write, process::ExitCode};

use clap::{Parser, Subcommand};
use daemon::config::{ConfigError, EXIT_BAD_CONFIG};

/// Calls services inside a cluster that accepts no inbound connection.
#[derive(Debug, Parser)]
#[command(name = "gateway", version, about, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway in the cluster: end tunnels, decide by policy, call targets.
    Serve(serve::Arguments),
    /// Run the connector outside of the cluster: open tunnels, offer local ports.
    Connect(connect::Arguments),
    /// Send one request through a tunnel of its own, like curl.
    Call(Box<call::Arguments>),
    /// Say what a cluster's gateway is, and what it knows of its cluster.
    Describe(describe::Arguments),
    /// Write a kubeconfig that points at a Kubernetes face of the connector.
    Kubeconfig(kubeconfig::Arguments),
    /// The cluster's identity, for those who must trust it.
    Trust(trust::Arguments),
    /// Questions to the policy.
    Policy(policy::Arguments),
    /// Questions to the audit stream.
    Audit(audit::Arguments),
}

/// Why a subcommand ended badly.
#[derive(Debug)]
enum Failed {
    /// The configuration cannot be used: exit 64.
    Config(ConfigError),
    /// Anything else: exit 1.
    Other(anyhow::Error),
}

impl From<ConfigError> for Failed {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// Runs the program.
pub(crate) fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A failed write of the help text leaves nobody to tell.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_BAD_CONFIG) } else { ExitCode::SUCCESS };
        }
    };
    let outcome = match cli.command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Connect(arguments) => connect::run(&arguments),
        Command::Call(arguments) => call::run(&arguments),
        Command::Describe(arguments) => describe::run(&arguments),
        Command::Kubeconfig(arguments) => kubeconfig::run(&arguments),
        Command::Trust(arguments) => trust::run(&arguments),
        Command::Policy(arguments) => policy::run(&arguments),
        Command::Audit(arguments) => audit::run(&arguments),
    };
    match outcome {
        Ok(code) => code,
        Err(Failed::Config(error)) => {
            complain(&error.to_string());
            ExitCode::from(EXIT_BAD_CONFIG)
        }
        Err(Failed::Other(error)) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// What went wrong, on standard error.
fn complain(message: &str) {
    note(&format!("gateway: {message}"));
}

/// A line for people, on standard error.
fn note(line: &str) {
    // If standard error is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A result, on standard output.
fn answer(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// A runtime for a subcommand that talks to the network.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
