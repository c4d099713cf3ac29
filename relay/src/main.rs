//! `relay`: the rendezvous server, the listener, and a minter of tokens.
use std::{io::Write as _, process::ExitCode, time::SystemTime};

use clap::{Parser, Subcommand};
use daemon::{
    config::EXIT_BAD_CONFIG,
    process::{CommonArgs, Program, Threads, explain, run},
};

/// Relays WebSockets between senders and listeners (Azure Relay Hybrid Connections)
#[derive(Debug, Parser)]
#[command(name = "relay", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the rendezvous server, where listeners and senders meet
    Serve(CommonArgs),
    /// Run the cluster side: hold control channels to relays and hand each rendezvous to a local target
    Listen(CommonArgs),
    /// Check the way to a relay, from the name to a round trip, and what the credential may do
    Check(relay::check::Args),
    /// Send standard input through a hybrid connection, and write what comes back
    Send(relay::send::Args),
    /// Mint a shared access signature to standard output
    Token(relay::token::Args),
    /// Add, remove and list hybrid connections
    #[command(subcommand)]
    Entity(relay::entity::EntityCommand),
    /// Rotate keys of shared access rules
    #[command(subcommand)]
    Key(relay::entity::KeyCommand),
}

/// Keeps freed buffers for a moment. What glibc's allocator gives back to the kernel after each burst, and faults in again
/// for the next, is a third of what a byte costs. `.cargo/config.toml` sets how long that moment is.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    daemon::process::protect();
    identity::tls::install_provider();
    match Cli::parse().command {
        Command::Serve(args) => {
            let program = Program {
                name: "relay serve",
                metrics: "causeway_relay",
                admin_port: relay::entity::ADMIN_PORT,
                threads: Threads::PerCore,
            };
            run(&program, &args, relay::serve::start)
        }
        Command::Listen(args) => {
            let program = Program {
                name: "relay listen",
                metrics: "causeway_listener",
                admin_port: 9311,
                threads: Threads::PerCore,
            };
            run(&program, &args, relay::listen::start)
        }
        Command::Check(args) => relay::check::run(&args),
        Command::Send(args) => relay::send::run(&args),
        Command::Token(args) => token(&args),
        Command::Entity(command) => relay::entity::run(&command),
        Command::Key(command) => relay::entity::run_key(&command),
    }
}

fn token(args: &relay::token::Args) -> ExitCode {
    match relay::token::mint(args, SystemTime::now()) {
        Ok(token) => match writeln!(std::io::stdout(), "{}", token.expose()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            // Nobody can be told that nobody can be told.
            let _ = writeln!(std::io::stderr(), "relay token: {}", explain(&error));
            ExitCode::from(EXIT_BAD_CONFIG)
        }
    }
}
