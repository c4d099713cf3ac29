//! The `gateway` program: the gateway in the cluster and the connector outside of it, as subcommands of one binary.

mod cli;

use std::process::ExitCode;

/// Keeps freed buffers for a moment. What glibc's allocator gives back to the kernel after each burst, and faults in again
/// for the next, is a third of what a byte costs. `.cargo/config.toml` sets how long that moment is.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    daemon::process::protect();
    cli::run()
}
