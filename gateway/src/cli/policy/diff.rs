//! `gateway policy diff`: what another policy file would change, told like the log of a reload.

use std::{path::PathBuf, process::ExitCode, time::SystemTime};

use anyhow::Context;
use clap::Args;
use daemon::process::CommonArgs;
use gateway::{
    policy::Policy,
    serve::{
        Config,
        enforced::{Loader, PolicyError},
    },
};

use super::super::Failed;

#[derive(Debug, Args)]
pub(super) struct Diff {
    #[command(flatten)]
    common: CommonArgs,
    /// The other policy file.
    #[arg(value_name = "FILE")]
    other: PathBuf,
}

pub(super) fn run(diff: &Diff) -> Result<ExitCode, Failed> {
    let config = diff.common.load::<Config>()?;
    let loader = Loader::new(&config.values, &config.base, &config.path);
    let text = std::fs::read_to_string(&diff.other)
        .with_context(|| format!("{} cannot be read as text", diff.other.display()))?;
    let now = SystemTime::now();
    let both = loader.load(&loader.read(), now).and_then(|old| Ok((old, loader.parse(&text, &diff.other, now)?)));
    match both {
        Ok((old, new)) => {
            let told = tell(&old, &new);
            super::super::answer(&told)?;
            Ok(if told.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Err(error) => Ok(unusable(&error)),
    }
}

fn unusable(error: &PolicyError) -> ExitCode {
    super::super::complain(&daemon::process::explain(error));
    ExitCode::from(daemon::config::EXIT_BAD_CONFIG)
}

/// A line for each grant that is taken away or added.
fn tell(old: &Policy, new: &Policy) -> String {
    let (added, removed) = old.difference(new);
    let lines = removed.iter().map(|rule| format!("- {rule}\n")).chain(added.iter().map(|rule| format!("+ {rule}\n")));
    let mut told: String = lines.collect();
    if new.suspends() != old.suspends() {
        told.push_str(if new.suspends() { "+ suspended: everything\n" } else { "- suspended: everything\n" });
    }
    told
}
