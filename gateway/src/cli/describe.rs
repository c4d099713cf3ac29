//! `gateway describe`: what the gateway of a cluster is, and what it knows of the cluster.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use daemon::{
    config::EXIT_BAD_CONFIG,
    process::{CommonArgs, Context},
};
use gateway::{connect::Config, describe};

use super::{Failed, note};

/// Time that the tunnel gets to close in good order.
const CLOSE_DEADLINE: Duration = Duration::from_millis(500);

/// Arguments of `gateway describe`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The connector's configuration file (YAML)
    #[arg(short, long, value_name = "FILE", env = "CAUSEWAY_CONFIG")]
    config: PathBuf,
    /// Override one value of it, as in `--set trust.system=false`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Cluster, a key of `clusters:` in the configuration.
    cluster: String,
    /// One JSON object instead of lines for people.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failed> {
    let common = CommonArgs { config: arguments.config.clone(), print_config: false, set: arguments.set.clone() };
    let config = common.load::<Config>()?;
    let runtime = super::runtime()?;
    let told = runtime.block_on(async {
        let context = Context::new("causeway_describe");
        let told = tokio::select! {
            told = Box::pin(describe::describe(config, &context, &arguments.cluster)) => Some(told),
            () = daemon::process::terminated() => None,
        };
        context.shutdown.run(CLOSE_DEADLINE).await;
        told
    });
    match told {
        None => Ok(ExitCode::FAILURE),
        Some(Ok(described)) if arguments.json => {
            super::answer(&format!("{}\n", described.json()))?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Ok(described)) => {
            super::answer(&described.text())?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Err(error)) => {
            note(&error.explained());
            Ok(if error.is_bad_config() { ExitCode::from(EXIT_BAD_CONFIG) } else { ExitCode::FAILURE })
        }
    }
}
