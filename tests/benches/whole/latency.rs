//! One small request at a time on a warm path: what a hop adds.
use std::{sync::Arc, time::Duration};

use causeway_tests::site::Site;

use super::{
    load, median, rivals,
    world::{self, Path_},
};

const TIME: Duration = Duration::from_secs(1);
const ROUNDS: usize = 7;

/// Prints the table.
pub(crate) async fn measure(paths: &[Path_], sites: &[Site]) -> anyhow::Result<()> {
    let hop = rivals::haproxy(&sites[0]).await?;
    let mut all = Vec::new();
    for (path, site) in paths.iter().zip(sites) {
        let head: Arc<[u8]> = world::small(site)?.into();
        if let Some(tcp) = path.tcp {
            all.push((format!("{}, bare TCP", path.name), tcp, head.clone()));
        }
        if let Some(http) = path.http.filter(|_| !path.processes.is_empty()) {
            all.push((format!("{}, HTTP", path.name), http, head));
        }
    }
    if let Some((hop, tcp)) = hop.as_ref().and_then(|hop| Some((hop, hop.tcp?))) {
        all.push((hop.name.to_owned(), tcp, world::small(&sites[0])?.into()));
    }
    let mut seen = vec![Vec::new(); all.len()];
    for _ in 0..ROUNDS {
        for ((_, address, head), seen) in all.iter().zip(&mut seen) {
            let rate = load::requests(*address, head.clone(), 1, TIME).await?;
            seen.push((rate.p50.as_secs_f64() * 1e6, rate.p99.as_secs_f64() * 1e6));
        }
    }
    println!("| one request at a time | p50 µs | added | p99 µs |\n|---|---|---|---|");
    let base = median(seen[0].iter().map(|(p50, _)| *p50));
    for ((name, ..), seen) in all.iter().zip(&seen) {
        let (p50, p99) = (median(seen.iter().map(|(p50, _)| *p50)), median(seen.iter().map(|(_, p99)| *p99)));
        println!("| {name} | {p50:.0} | {:.0} | {p99:.0} |", p50 - base);
    }
    println!();
    Ok(())
}
