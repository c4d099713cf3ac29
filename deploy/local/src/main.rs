//! Every component of Causeway in one process on loopback, showing itself at work.
//!
//! It makes a private folder with keys, certificates and the same configuration files that the real programs read,
//! starts relay, listener, gateway, two connectors and the sidecar through their library entry points, and sends real
//! requests through both topologies. What it prints about each hop is what the components wrote to their access logs.
//!
//! Exit codes: 0 everything worked, 1 something failed (and it said what), 2 bad arguments.

mod demo;
mod hops;
mod issuer;
mod sample;
mod say;
mod stage;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Parser;

/// How long components may take to finish when this ends.
const GRACE: Duration = Duration::from_secs(5);

/// Starts relay, listener, gateway, connectors, token sidecar and a small sample service on loopback, sends real requests
/// through the relay and directly, and tells what happened hop by hop. Keeps running until Ctrl-C, so that you can
/// paste the commands it prints.
#[derive(Debug, Parser)]
#[command(name = "causeway-local", version)]
struct Args {
    /// Stop after the demonstration: exit code 0 if everything worked, 1 with an explanation if not.
    #[arg(long)]
    once: bool,

    /// Checksummed bytes to send through each topology and back, in MiB (1 to 65536).
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    mebibytes: u32,

    /// Port of the local HTTP face through the relay; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    relay_http_port: u16,

    /// Port of the local HTTP face of direct mode; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    direct_http_port: u16,

    /// Port of the sidecar's managed-identity endpoint; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    sidecar_port: u16,

    /// Folder for keys, configuration and the log: must not exist yet, and stays afterwards. Default: a temporary one
    /// that is removed at the end.
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

fn main() -> ExitCode {
    daemon::process::protect();
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say::failed(&anyhow::Error::new(error).context("starting the runtime"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say::failed(&error);
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> anyhow::Result<()> {
    identity::tls::install_provider();
    let folder = stage::Folder::make(args.folder.as_deref())?;
    let hops = hops::start(&folder.path().join("causeway.log"))?;

    let ports = stage::Ports {
        relay_http: args.relay_http_port,
        direct_http: args.direct_http_port,
        sidecar: args.sidecar_port,
    };
    let stage = stage::Stage::start(&folder, ports).await.with_context(|| {
        format!("starting the components; their log is {}", folder.path().join("causeway.log").display())
    })?;
    let worked = tokio::select! {
        worked = demo::run(&stage, &hops, args.mebibytes) => worked,
        () = daemon::process::terminated() => Err(anyhow::anyhow!("interrupted before the demonstration had ended")),
    };
    if worked.is_ok() && !args.once {
        demo::invite(&stage, &folder);
        daemon::process::terminated().await;
    }
    say::line("stopping");
    stage.stop(GRACE).await;
    if worked.is_err() {
        folder.keep();
    }
    worked
}
