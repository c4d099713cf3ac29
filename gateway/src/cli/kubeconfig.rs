//! `gateway kubeconfig`: writes a kubeconfig that points at a Kubernetes face of the connector.

use std::{io::Write, os::unix::fs::OpenOptionsExt, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Args;
use daemon::{config::EXIT_BAD_CONFIG, process::CommonArgs};
use gateway::{
    connect::Config,
    kubeconfig::{self, Credential, Wanted},
};
use identity::secret::Secret;

use super::{Failed, complain};

/// Arguments of `gateway kubeconfig`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The connector's configuration file (YAML)
    #[arg(short, long, value_name = "FILE", env = "CAUSEWAY_CONFIG")]
    config: PathBuf,
    /// Override one value of it, as in `--set state=/var/lib/causeway`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Of which cluster; needed where the configuration has kubernetes faces of several.
    cluster: Option<String>,
    /// File with the token of whoever uses the kubeconfig. The kubeconfig names it; clients read it again when it changes.
    #[arg(long, value_name = "FILE", group = "credential")]
    token_file: Option<PathBuf>,
    /// Program that prints a credential (`client.authentication.k8s.io/v1beta1`), and its arguments: the last option.
    #[arg(long, value_name = "COMMAND", num_args = 1.., allow_hyphen_values = true, group = "credential")]
    exec: Vec<String>,
    /// Write the token in this file into the kubeconfig itself, where whoever reads the kubeconfig has it.
    #[arg(long, value_name = "FILE", group = "credential")]
    inline_token: Option<PathBuf>,
    /// `https://host:port` in place of the face's address.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Namespace of the context.
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Write to this file, for its owner alone, instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failed> {
    let common = CommonArgs { config: arguments.config.clone(), print_config: false, set: arguments.set.clone() };
    let config = common.load::<Config>()?;
    let credential = match (&arguments.token_file, &arguments.inline_token) {
        (Some(path), _) => Some(Credential::File(kubeconfig::absolute(path).context("--token-file")?)),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            Some(Credential::Inline(Secret::new(text.trim())))
        }
        (None, None) if !arguments.exec.is_empty() => Some(Credential::Program(arguments.exec.clone())),
        (None, None) => None,
    };
    let wanted = Wanted {
        cluster: arguments.cluster.as_deref(),
        server: arguments.server.as_deref(),
        namespace: arguments.namespace.as_deref(),
        credential,
    };
    let text = match kubeconfig::write(&config, wanted) {
        Ok(text) => text,
        Err(error) => {
            complain(&daemon::process::explain(&error));
            return Ok(ExitCode::from(EXIT_BAD_CONFIG));
        }
    };
    match &arguments.output {
        None => super::answer(&text)?,
        Some(path) => {
            let opened = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
            let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
            written.with_context(|| format!("{} cannot be written", path.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
