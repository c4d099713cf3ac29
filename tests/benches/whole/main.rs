//! Whole processes under load: what a tunnel costs, as ratios within one run.
//!
//! `cargo bench -p causeway-tests --bench whole -- [SECTION]…` runs it against the release programs (build them first:
//! `cargo build --release -p relay -p gateway`) and prints the tables of `RESULTS.md`. Sections: `bytes`; `kept`,
//! `fresh` and `http` (small requests on kept and on new connections, and through HTTP faces); `latency`, `live`, `idle`,
//! `churn`, `distance` (needs root, for network namespaces); all without an argument. In every round all paths of a
//! section take turns, so that a noisy machine disturbs them alike; medians are shown. What is measured runs on one core, what drives it and what it
//! leads to on the others, so CPU time says what a byte or a request costs.
//!
//! rathole takes part if `cargo install rathole --version 0.5.0 --root target/bench-tools` was done.
#![expect(clippy::print_stdout, reason = "a bench prints its results")]

mod bytes;
mod distance;
mod latency;
mod live;
mod load;
mod requests;
mod rivals;
mod scale;
mod world;

use std::process::Command;

use anyhow::ensure;
use causeway_tests::site::Site;
use tokio::task::JoinSet;
use world::{Path_, Setting, Targets, straight, tunnelled};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    // `cargo test --benches` starts every bench with --test: compile only.
    if arguments.iter().any(|argument| argument == "--test") {
        return Ok(());
    }
    if let [what, rest @ ..] = arguments.as_slice()
        && let Some(what) = what.strip_prefix("inside-")
    {
        return tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(distance::inside(what, rest));
    }
    if world::has_cores() {
        // Before there are threads: they, and whatever is started later, inherit it.
        let id = std::process::id().to_string();
        let pinned = Command::new("taskset").args(["-cp", "0", &id]).output()?;
        ensure!(pinned.status.success(), "taskset: {}", String::from_utf8_lossy(&pinned.stderr));
    }
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?.block_on(run(&arguments))
}

async fn run(sections: &[String]) -> anyhow::Result<()> {
    let asked = |name: &str| sections.is_empty() || sections.iter().any(|section| section == name);
    let mut tasks = JoinSet::new();
    let targets = Targets { sink: load::sink(&mut tasks).await?, echo: load::echo(&mut tasks).await? };
    if ["bytes", "kept", "fresh", "http", "latency", "live"].into_iter().any(asked) {
        let mut sites = Vec::new();
        let paths = paths(&mut sites, targets).await?;
        if asked("bytes") {
            // Unmeasured: tunnels, pools and windows warm up.
            for path in &paths {
                bytes::warm(path).await?;
            }
            bytes::measure(&paths).await?;
        }
        let heads = requests::heads(&sites)?;
        if asked("kept") {
            requests::kept(&paths, &heads).await?;
        }
        if asked("fresh") {
            requests::fresh(&paths, &heads).await?;
        }
        if asked("http") {
            requests::http(&paths, &heads, &sites[0]).await?;
        }
        if asked("latency") {
            latency::measure(&paths, &sites).await?;
        }
        if asked("live") {
            live::measure(&paths).await?;
        }
    }
    if asked("idle") {
        scale::idle(targets).await?;
    }
    if asked("churn") {
        scale::churn(targets).await?;
    }
    if asked("distance") {
        distance::measure().await?;
    }
    Ok(())
}

/// Straight, ours in both topologies, and rathole.
async fn paths(sites: &mut Vec<Site>, targets: Targets) -> anyhow::Result<Vec<Path_>> {
    let mut paths = Vec::new();
    sites.push(Site::new().await);
    paths.push(straight(&sites[0], targets));
    for through_relay in [false, true] {
        let site = Site::new().await;
        paths.push(tunnelled(&site, targets, Setting { through_relay, ..Setting::default() }).await?.0);
        sites.push(site);
    }
    let site = Site::new().await;
    match rivals::rathole(&site, targets).await? {
        Some(path) => paths.push(path),
        None => println!("rathole is not installed and does not take part\n"),
    }
    sites.push(site);
    Ok(paths)
}

/// The middle one.
pub(crate) fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.into_iter().collect();
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}
