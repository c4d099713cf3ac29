//! The command line of `relay check`: what to check comes from a listener's file or a join string, what was found goes to
//! standard output, and the exit code says whether all is well (0), something fails (1), or there was nothing to check
//! because the configuration is wrong (64).
use std::{
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use daemon::{
    config::{ConfigError, EXIT_BAD_CONFIG, Loaded, SecretRef},
    process::{CommonArgs, Context, explain},
};
use identity::tls::{TlsError, Trust};
use serde_json::json;

use super::{Finding, Role, Status, Subject, Surroundings, check};
use crate::{
    dial::{Dialer, ProxyConfig},
    listen,
    sender::{Address, Credential, JoinFile},
};

/// What to check.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The listener's file: every hybrid connection in it is checked
    #[arg(short, long, value_name = "FILE", required_unless_present = "join")]
    pub config: Option<PathBuf>,
    /// File with a join string: alone what is checked; beside -c the sender's, for a real rendezvous
    #[arg(long, value_name = "FILE")]
    pub join: Option<PathBuf>,
    /// Whose the join string is, when it is alone
    #[arg(long = "as", value_name = "SIDE", default_value = "sender", conflicts_with = "config")]
    pub role: Role,
    /// PEM file that is trusted beside the system's roots, for a join string alone; may be repeated
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub ca: Vec<PathBuf>,
    /// Override one value of the file, as in `--set proxy=none`
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    pub set: Vec<String>,
    /// How to tell: a line for each finding, or one JSON document
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub output: Output,
}

/// Forms of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Why nothing was checked.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("the configuration cannot be used")]
    Config(#[from] ConfigError),
    #[error("the trust section cannot be used")]
    Trust(#[from] TlsError),
    #[error("--join names {0}, which is no hybrid connection of this file")]
    OtherPlace(Address),
    #[error("no runtime can be started")]
    Runtime(#[source] std::io::Error),
}

/// Checks, and tells.
pub fn run(args: &Args) -> ExitCode {
    let reported = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(Unusable::Runtime)
        .and_then(|runtime| {
            let reported = runtime.block_on(report(args));
            // A look-up of a name may hang in the kernel; it does not hold up the end.
            runtime.shutdown_background();
            reported
        });
    match reported {
        Ok((text, all_well)) => {
            // A closed pipe (`| head`) is the reader's wish.
            let _ = std::io::stdout().write_all(text.as_bytes());
            if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            // Nobody can be told that nobody can be told.
            let _ = writeln!(std::io::stderr(), "relay check: {}", explain(&error));
            ExitCode::from(EXIT_BAD_CONFIG)
        }
    }
}

async fn report(args: &Args) -> Result<(String, bool), Unusable> {
    let context = Context::new("causeway_check");
    let (subjects, surroundings) = match &args.config {
        Some(file) => from_file(args, file, &context)?,
        None => from_join(args, &context)?,
    };
    let mut results = Vec::with_capacity(subjects.len());
    for subject in &subjects {
        results.push((subject, check(subject, &surroundings).await));
    }
    let all_well = results.iter().flat_map(|(_, found)| found).all(|finding| finding.status != Status::Fail);
    Ok((told(&results, args.output), all_well))
}

fn told(results: &[(&Subject, Vec<Finding>)], output: Output) -> String {
    let mut text = String::new();
    match output {
        Output::Json => {
            let checks: Vec<_> = results
                .iter()
                .map(|(subject, found)| {
                    json!({
                        "hybrid_connection": subject.address.to_string(),
                        "as": subject.role.right(),
                        "ok": found.iter().all(|finding| finding.status != Status::Fail),
                        "findings": found.iter().map(Finding::json).collect::<Vec<_>>(),
                    })
                })
                .collect();
            text = serde_json::Value::from(checks).to_string();
            text.push('\n');
        }
        Output::Text => {
            for (subject, found) in results {
                // Writing to a String does not fail.
                if results.len() > 1 {
                    let _ = writeln!(text, "{}", subject.address);
                }
                for finding in found {
                    let _ = writeln!(text, "{finding}");
                }
            }
        }
    }
    text
}

/// Every hybrid connection of a listener's file.
fn from_file(args: &Args, file: &Path, context: &Context) -> Result<(Vec<Subject>, Surroundings), Unusable> {
    let common = CommonArgs { config: file.to_owned(), print_config: false, set: args.set.clone() };
    let Loaded { values, base, .. } = common.load::<listen::Config>()?;
    let mut other = args.join.as_deref().map(|join| open_join(join, context)).transpose()?;
    let mut subjects = Vec::with_capacity(values.hybrid_connections.len());
    for connection in &values.hybrid_connections {
        let (address, credential) = connection.access().open(&base, context)?;
        subjects.push(Subject {
            other: other.take_if(|(place, _)| *place == address).map(|(_, credential)| credential),
            address,
            credential,
            role: Role::Listener,
            channels: connection.channels,
            rendezvous_hosts: connection.rendezvous_hosts.clone(),
            rendezvous_ports: connection.rendezvous_ports.clone(),
        });
    }
    if let Some((place, _)) = other {
        return Err(Unusable::OtherPlace(place));
    }
    let dialer = Dialer::open(&values.proxy, &values.trust, &base)?;
    Ok((subjects, Surroundings::new(dialer, values.trust, &base)?))
}

/// A join string alone, with the system's roots and the environment's proxy.
fn from_join(args: &Args, context: &Context) -> Result<(Vec<Subject>, Surroundings), Unusable> {
    let here = Path::new(".");
    let (address, credential) = open_join(args.join.as_deref().unwrap_or(here), context)?;
    let trust = Trust { system: true, files: args.ca.clone() };
    let dialer = Dialer::open(&ProxyConfig::FromEnvironment, &trust, here)?;
    let subject = Subject {
        address,
        credential,
        role: args.role,
        channels: 1,
        other: None,
        rendezvous_hosts: Vec::new(),
        rendezvous_ports: Vec::new(),
    };
    Ok((vec![subject], Surroundings::new(dialer, trust, here)?))
}

fn open_join(file: &Path, context: &Context) -> Result<(Address, Credential), ConfigError> {
    let here = Path::new(".");
    Credential::join(JoinFile::new(SecretRef::File(file.to_owned()), here), here, context.clock.clone())
}
