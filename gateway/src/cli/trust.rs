//! `gateway trust export`: the public half of the cluster's identity, for its owner to carry to a connector. The file
//! goes to standard output, the line to compare over another channel to standard error.

use std::{process::ExitCode, time::SystemTime};

use anyhow::Context;
use clap::{Args, Subcommand};
use daemon::process::CommonArgs;
use gateway::serve::{Config, cluster::Authority};
use time::OffsetDateTime;

use super::Failed;

/// Arguments of `gateway trust`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the trust file; the cluster's CA is made if there is none yet.
    Export {
        #[command(flatten)]
        common: CommonArgs,
    },
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failed> {
    let Command::Export { common } = &arguments.command;
    let config = common.load::<Config>()?;
    let directory = config.resolve(&config.values.identity.directory);
    let authority = Authority::open(&directory, &config.values.cluster).context("the cluster's identity")?;
    let file = authority.trust_file().context("the cluster's certificates")?;
    super::answer(&file.to_yaml().context("the trust file")?)?;
    let date = |at: SystemTime| OffsetDateTime::from(at).date().to_string();
    let renews = authority.leaf_renews().map(|at| format!("   leaf renews {}", date(at))).unwrap_or_default();
    for fingerprint in file.fingerprints() {
        super::note(&format!(
            "cluster {}   CA SHA-256 {fingerprint}{renews}   (compare this line over another channel)",
            file.cluster
        ));
    }
    Ok(ExitCode::SUCCESS)
}
