//! The owner's commands: `relay entity add | remove | list` and `relay key rotate`.
//!
//! They change files beside relay.yaml and nothing else; a running relay follows those by itself, and the commands ask it
//! whether it has. What decides is written last and at once, so a command that is interrupted has either happened or not,
//! and can be typed again. No secret is ever printed: only where it lies.
mod add;
mod files;
mod home;
mod layout;
mod list;
mod remove;
mod rotate;
mod running;
#[cfg(test)]
mod tests;

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};

use clap::Subcommand;
use daemon::{
    config::{ConfigError, EXIT_BAD_CONFIG},
    process::explain,
};

pub use self::home::ADMIN_PORT;

/// `relay entity …`
#[derive(Debug, Subcommand)]
pub enum EntityCommand {
    /// Make a hybrid connection: two rules with one right each, their keys, and a join string for each side
    Add(add::Args),
    /// Take a hybrid connection away, with its keys; everything in it is closed
    Remove(remove::Args),
    /// List all hybrid connections, and what a running relay says of them
    List(list::Args),
}

/// `relay key …`
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Give a rule a new key; the one before goes on as its second key, and the one before that ends
    Rotate(rotate::Args),
}

/// Which relay.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Which {
    /// The relay's configuration file
    #[arg(short, long, value_name = "FILE", env = "CAUSEWAY_CONFIG")]
    config: PathBuf,
}

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnerError {
    /// The configuration, as it is before the command.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no place for a new file.
    #[error(
        "{}: there is no `entities_from`; add the line `entities_from: entities.d`, restart or let the relay reload, and \
         type this again",
        .0.display()
    )]
    NoFolder(PathBuf),
    /// A name or value that cannot be used; the text says why.
    #[error("{0}")]
    Unfit(String),
    /// Somebody else changes the same files.
    #[error("{}: another command is changing this relay's files; type this again when it has ended", .0.display())]
    Busy(PathBuf),
    /// The file system says no.
    #[error("{}", path.display())]
    Io {
        /// About what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The running relay read the files, and cannot use them.
    #[error("the running relay refused the change, and goes on as before")]
    Refused(#[source] Problem),
    /// The running relay did not read them.
    #[error("the relay at {0} has not taken the change over in time; look at its log")]
    Late(SocketAddr),
    /// Nobody can be told.
    #[error("standard output cannot be written")]
    Output(#[source] io::Error),
}

/// What a relay says is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Problem(String);

impl OwnerError {
    fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |source| Self::Io { path, source }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::NoFolder(_) | Self::Unfit(_) => EXIT_BAD_CONFIG,
            Self::Busy(_) | Self::Io { .. } | Self::Refused(_) | Self::Late(_) | Self::Output(_) => 1,
        }
    }
}

/// Runs `relay entity …`. Exit codes: 0 done, 1 not done or not in force, 64 the command line or the configuration is
/// wrong.
pub fn run(command: &EntityCommand) -> ExitCode {
    told(
        "relay entity",
        match command {
            EntityCommand::Add(args) => add::run(args, &mut io::stdout()),
            EntityCommand::Remove(args) => remove::run(args, &mut io::stdout()),
            EntityCommand::List(args) => list::run(args, &mut io::stdout()),
        },
    )
}

/// Runs `relay key …`, with the same exit codes.
pub fn run_key(command: &KeyCommand) -> ExitCode {
    match command {
        KeyCommand::Rotate(args) => told("relay key", rotate::run(args, &mut io::stdout())),
    }
}

fn told(name: &str, outcome: Result<(), OwnerError>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody can be told that nobody can be told.
            let _ = writeln!(io::stderr(), "{name}: {}", explain(&error));
            ExitCode::from(error.code())
        }
    }
}
