//! The shape of every `main`: load, start, wait for a signal, drain, say how it ended.
//!
//! A `main` is one clap structure with [`CommonArgs`] in it and one call of [`run`] with the component's `start`.
//! Nothing listens before the whole configuration was found valid. Exit codes: 0 it ended because it was asked to (the
//! log says whether everything finished or how much was cut), 1 it could not start, 64 the configuration is wrong.
use std::{error::Error, fmt::Write as _, io::Write as _, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, de::DeserializeOwned};
use tracing::{error, info, warn};

use crate::{
    admin::{self, Events, Readiness, StatusBoard},
    clock::{SharedClock, SystemClock},
    config::{self, ConfigError, EXIT_BAD_CONFIG, Loaded, Overrides, Span, Validate},
    log,
    metrics::Metrics,
    shutdown::Shutdown,
    workers::{Crew, Workers},
};

mod protect;
mod signals;
mod supervise;

pub use protect::protect;
pub use signals::terminated;

/// Default of `grace:`. Kubernetes sends SIGKILL 30 s after SIGTERM unless told otherwise.
pub const GRACE: Duration = Duration::from_secs(30);

/// What a component is given by the process it runs in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Context {
    /// When to drain and when to stop.
    pub shutdown: Shutdown,
    /// The one clock.
    pub clock: SharedClock,
    /// Where metrics are registered.
    pub metrics: Metrics,
    /// What `/readyz` waits for.
    pub readiness: Readiness,
    /// What `/statusz` shows.
    pub status: StatusBoard,
    /// What `/events` tells.
    pub events: Events,
    /// What is laid over the configuration file, for whoever reads it again.
    pub overrides: Overrides,
    /// Where work runs that belongs together.
    pub workers: Workers,
}

impl Context {
    /// A context on the system clock; `prefix` names the component in metrics.
    pub fn new(prefix: &str) -> Self {
        Self {
            shutdown: Shutdown::new(),
            clock: Arc::new(SystemClock),
            metrics: Metrics::new(prefix),
            readiness: Readiness::default(),
            status: StatusBoard::default(),
            events: Events::new(),
            overrides: Overrides::default(),
            workers: Workers::default(),
        }
    }
}

/// What distinguishes one program from the others, before any configuration.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// As it is typed: `relay serve`.
    pub name: &'static str,
    /// Prefix of its metrics: `causeway_relay`.
    pub metrics: &'static str,
    /// Loopback port of its admin server, when the configuration names none.
    pub admin_port: u16,
    /// How many threads run its tasks.
    pub threads: Threads,
}

/// How many threads run tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// One per core, which share all tasks.
    PerCore,
    /// One per core, each with tasks of its own ([`Context::workers`]), and one for everything else.
    Workers,
    /// One: for a sidecar, where memory counts more than throughput.
    One,
}

/// The command line that every long-running program has; flatten it into the program's own clap structure.
#[derive(Debug, Clone, clap::Args)]
pub struct CommonArgs {
    /// Configuration file (YAML)
    #[arg(short, long, value_name = "FILE", env = "CAUSEWAY_CONFIG")]
    pub config: PathBuf,
    /// Print the effective configuration with the origin of each value, and exit
    #[arg(long)]
    pub print_config: bool,
    /// Override one value, as in `--set log.level=debug`; values are YAML; may be repeated, the last one wins
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl CommonArgs {
    /// For one-shot commands: the typed configuration alone, with environment and flags applied.
    pub fn load<C: DeserializeOwned + Validate>(&self) -> Result<Loaded<C>, ConfigError> {
        Ok(config::load_program(&self.config, &self.overrides()?)?.loaded)
    }

    fn overrides(&self) -> Result<Overrides, ConfigError> {
        Overrides::from_environment(std::env::vars_os())?.and_flags(&self.set)
    }
}

/// The sections that every program's file may have beside its own keys.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How it logs.
    pub log: log::Config,
    /// Its admin port.
    pub admin: admin::Config,
    /// How long work in flight may take to finish after SIGTERM; default 30s. A second signal ends it at once.
    pub grace: Span,
}

impl Settings {
    /// Its keys.
    pub(crate) const KEYS: [&'static str; 3] = ["log", "admin", "grace"];
}

impl Validate for Settings {}

impl Default for Settings {
    fn default() -> Self {
        Self { log: log::Config::default(), admin: admin::Config::default(), grace: Span(GRACE) }
    }
}

/// Why a component could not start: implemented by each `StartError`, because only it knows which of its variants are
/// the configuration's fault.
pub trait StartFailure: Error + Send + Sync + 'static {
    /// Whether the configuration, or a file it names, is to blame: exit code 64 instead of 1.
    fn is_bad_config(&self) -> bool;
}

impl StartFailure for ConfigError {
    fn is_bad_config(&self) -> bool {
        true
    }
}

/// Runs a component until a signal: the whole life of a process. `start` is the component's own function; what it
/// returns is kept until everything has ended.
pub fn run<C, R, E, F>(program: &Program, args: &CommonArgs, start: impl FnOnce(Loaded<C>, Context) -> F) -> ExitCode
where
    C: DeserializeOwned + Validate + JsonSchema,
    E: StartFailure,
    F: Future<Output = Result<R, E>>,
{
    let overrides = match args.overrides() {
        Ok(overrides) => overrides,
        Err(error) => return fail(program, &error, EXIT_BAD_CONFIG),
    };
    let loaded = match config::load_program::<C>(&args.config, &overrides) {
        Ok(loaded) => loaded,
        Err(error) => return fail(program, &error, EXIT_BAD_CONFIG),
    };
    if args.print_config {
        return print(&loaded.effective());
    }
    log::start(&loaded.settings.log);
    log_panics();
    let runtime = match program.threads {
        Threads::PerCore => tokio::runtime::Builder::new_multi_thread(),
        Threads::Workers | Threads::One => tokio::runtime::Builder::new_current_thread(),
    }
    .enable_all()
    .build();
    let crew = (program.threads == Threads::Workers).then(Crew::start).transpose();
    let (runtime, crew) = match (runtime, crew) {
        (Ok(runtime), Ok(crew)) => (runtime, crew),
        (Err(error), _) | (_, Err(error)) => return fail(program, &error, 1),
    };
    let workers = crew.as_ref().map(|crew| crew.workers().clone()).unwrap_or_default();
    let settings = loaded.settings;
    let config = loaded.loaded;
    let follow = supervise::Follow { path: config.path.clone(), overrides };
    let started = |context| start(config, context);
    let ended = runtime.block_on(supervise::run(program, &settings, follow, workers, started));
    // Blocking threads (DNS, files) may hang in the kernel; they do not hold up the end.
    if let Some(crew) = crew {
        crew.stop(Duration::from_secs(1));
    }
    runtime.shutdown_timeout(Duration::from_secs(1));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(supervise::Failed::Admin { address, source }) => {
            let why = format!("admin port {address} cannot be bound: {source}");
            fail_with(program, &why, 1)
        }
        Err(supervise::Failed::Start(failure)) => {
            fail(program, &failure, if failure.is_bad_config() { EXIT_BAD_CONFIG } else { 1 })
        }
    }
}

/// An error and its causes, each on a line of its own, without what was already said.
pub fn explain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let why = error.to_string();
        if !text.contains(&why) {
            // Writing to a String does not fail.
            let _ = write!(text, "\n  because: {why}");
        }
        cause = error.source();
    }
    text
}

/// The same in one line, for a field of a log line.
pub fn explain_in_line(error: &dyn Error) -> String {
    explain(error).replace("\n  because: ", ": ")
}

fn fail(program: &Program, error: &dyn Error, code: u8) -> ExitCode {
    fail_with(program, &explain(error), code)
}

fn fail_with(program: &Program, why: &str, code: u8) -> ExitCode {
    // Nobody can be told that nobody can be told.
    let _ = writeln!(std::io::stderr(), "{}: {why}", program.name);
    ExitCode::from(code)
}

fn print(text: &str) -> ExitCode {
    // A closed pipe (`| head`) is the reader's wish.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// A panic ends one task; it must still be a log line like any other.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        let thread = std::thread::current();
        error!(
            thread = thread.name(),
            location,
            backtrace = %std::backtrace::Backtrace::capture(),
            "task panicked: {}",
            panic.payload_as_str().unwrap_or("without a message")
        );
    }));
}

fn log_outcome(outcome: crate::shutdown::Outcome) {
    match outcome {
        crate::shutdown::Outcome::Drained => info!("ended, everything was finished"),
        crate::shutdown::Outcome::Forced(cut) => warn!(cut, "ended, tasks were cut off"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("relay cannot start")]
    struct Outer(#[source] ConfigError);

    #[test]
    fn an_explanation_lists_each_cause_once() {
        let io = std::io::Error::from(std::io::ErrorKind::NotFound);
        let error = Outer(ConfigError::Read { path: "relay.yaml".into(), source: io });
        assert_eq!(explain(&error), "relay cannot start\n  because: relay.yaml: entity not found");
    }
}
