//! `gateway trust`: the cluster's identity. `export` prints its public half, for the owner to carry to a connector: the
//! file goes to standard output, the lines to compare over another channel to standard error. `rotate`, `retire` and
//! `backup` change the identity's directory; a running gateway sees it by itself.

use std::{path::PathBuf, process::ExitCode, time::SystemTime};

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
    /// Publish another CA, which signs the gateway's certificate after 30 days.
    Rotate {
        #[command(flatten)]
        common: CommonArgs,
        /// The CA and its key, as `backup` wrote them; default a new one
        #[arg(long, value_name = "FILE")]
        with: Option<PathBuf>,
        /// Sign with the next CA at once: for a key that was lost or stolen. Who has not adopted that CA, and has no pin
        /// of it, is locked out until it gets a new trust file
        #[arg(long)]
        dangerous_now: bool,
    },
    /// Publish no CA any more but the one that signs, and the next one.
    Retire {
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Make a CA to be kept away from the cluster, and pin it in every trust file that is exported from now on.
    Backup {
        #[command(flatten)]
        common: CommonArgs,
        /// Where to write the CA and its key
        #[arg(value_name = "FILE")]
        to: PathBuf,
    },
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failed> {
    match &arguments.command {
        Command::Export { common } => export(&open(common)?)?,
        Command::Rotate { common, with, dangerous_now } => rotate(common, with.as_ref(), *dangerous_now)?,
        Command::Retire { common } => {
            let gone = open(common)?.retire().context("the cluster's certificates")?;
            super::note(&format!("CAs no longer published: {gone}"));
        }
        Command::Backup { common, to } => {
            open(common)?.back_up(to).context("the CA to be kept")?;
            super::note(&format!(
                "wrote {}: keep it where nobody gets at it, and carry a new trust file to every connector; if the \
                 cluster's CA key is lost, `gateway trust rotate --with <file> --dangerous-now`",
                to.display()
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn open(common: &CommonArgs) -> Result<Authority, Failed> {
    let config = common.load::<Config>()?;
    let directory = config.resolve(&config.values.identity.directory);
    Ok(Authority::open(&directory, &config.values.cluster).context("the cluster's identity")?)
}

fn export(authority: &Authority) -> Result<(), Failed> {
    let file = authority.trust_file().context("the cluster's certificates")?;
    super::answer(&file.to_yaml().context("the trust file")?)?;
    let renews = authority.leaf_renews().map(|at| format!("   leaf renews {}", date(at))).unwrap_or_default();
    for fingerprint in file.fingerprints() {
        super::note(&format!(
            "cluster {}   CA SHA-256 {fingerprint}{renews}   (compare this line over another channel)",
            file.cluster
        ));
    }
    Ok(())
}

fn rotate(common: &CommonArgs, with: Option<&PathBuf>, now: bool) -> Result<(), Failed> {
    let authority = open(common)?;
    if authority.next_signs().is_none() || !now || with.is_some() {
        let at = authority.rotate(with.map(PathBuf::as_path), SystemTime::now()).context("the next CA")?;
        super::note(&format!("the next CA is published and signs from {}", date(at)));
    }
    let authority = open(common)?;
    if now {
        authority.promote().context("the next CA")?;
        super::note("it signs now");
    }
    for fingerprint in open(common)?.trust_file().context("the cluster's certificates")?.fingerprints() {
        super::note(&format!("CA SHA-256 {fingerprint}"));
    }
    super::note(
        "connectors with `trust.follow` adopt it by themselves; carry a new trust file (`gateway trust export`) to the others",
    );
    Ok(())
}

fn date(at: SystemTime) -> String {
    OffsetDateTime::from(at).date().to_string()
}
