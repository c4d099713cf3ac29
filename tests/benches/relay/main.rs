//! The relay under load, as a release build and over TLS: what bytes cost in its splice, what a listener that waits costs,
//! what it costs to meet, and how long a restart lasts.
//!
//! `cargo bench -p causeway-tests --bench relay -- splice` runs one of `splice`, `idle`, `rendezvous` and `restart`, and
//! prints rows of `RESULTS.md`. Build the program first (`cargo build --release -p relay`) and name its folder in
//! `CAUSEWAY_BIN`. `splice` compares with Debian's `haproxy`; both are pinned to the second core, so start the bench with
//! `taskset -c 0`. The others hold 10,000 connections open (`ulimit -n 20000`).
#![expect(clippy::print_stdout, reason = "a bench prints its results")]

mod bytes;
mod haproxy;
mod idle;
mod peers;
mod rendezvous;
mod restart;
mod splice;
mod world;

use anyhow::bail;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    // `cargo test --benches` starts every bench with --test: compile only.
    if arguments.iter().any(|argument| argument == "--test") {
        return Ok(());
    }
    identity::tls::install_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let [what] = &arguments[..] else { bail!("name one of splice, idle, rendezvous, restart") };
    runtime.block_on(async {
        match what.as_str() {
            "splice" => splice::run().await,
            "idle" => idle::run().await,
            "rendezvous" => rendezvous::run().await,
            "restart" => restart::run().await,
            other => bail!("{other} is none of splice, idle, rendezvous, restart"),
        }
    })
}

/// The middle one.
fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    percentile(numbers, 50)
}

/// The value that so many per cent lie below.
fn percentile(numbers: impl IntoIterator<Item = f64>, percent: usize) -> f64 {
    let mut numbers: Vec<f64> = numbers.into_iter().collect();
    numbers.sort_by(f64::total_cmp);
    numbers.get((numbers.len() * percent / 100).min(numbers.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}
