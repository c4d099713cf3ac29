//! Small HTTP requests: kept alive on 32 connections through TCP faces and HTTP faces, and on a new connection each.
use std::{net::SocketAddr, sync::Arc, time::Duration};

use causeway_tests::site::Site;

use super::{
    load, median, rivals,
    world::{self, Path_},
};

/// Kept-alive connections, as in the budgets.
const CONNECTIONS: usize = 32;
const TIME: Duration = Duration::from_secs(3);
const ROUNDS: usize = 5;

struct Seen {
    per_second: f64,
    micros: f64,
    p50: f64,
    p99: f64,
}

/// What is asked for on each path.
type Heads = Vec<Arc<[u8]>>;

pub(crate) fn heads(sites: &[Site]) -> anyhow::Result<Heads> {
    sites.iter().map(|site| world::small(site).map(Arc::from)).collect()
}

/// Through TCP faces, on connections that are kept.
pub(crate) async fn kept(paths: &[Path_], heads: &Heads) -> anyhow::Result<()> {
    table("kept alive, bare TCP", &through(paths, heads, |path| path.tcp), |address, head| async move {
        load::requests(address, head, CONNECTIONS, TIME).await.map(|rate| (rate.per_second, rate.p50, rate.p99))
    })
    .await
}

/// Through TCP faces, on a new connection each.
pub(crate) async fn fresh(paths: &[Path_], heads: &Heads) -> anyhow::Result<()> {
    table("a connection each, bare TCP", &through(paths, heads, |path| path.tcp), |address, head| async move {
        let per_second = load::connections(address, head, 16, TIME).await?;
        Ok((per_second, Duration::ZERO, Duration::ZERO))
    })
    .await
}

/// Through HTTP faces, on connections that are kept.
pub(crate) async fn http(paths: &[Path_], heads: &Heads, site: &Site) -> anyhow::Result<()> {
    let chain = rivals::nginx_chain(site).await?;
    let mut http = through(paths, heads, |path| path.http);
    if let Some(address) = chain.http {
        http.push((&chain, address, heads[0].clone()));
    }
    table("kept alive, HTTP", &http, |address, head| async move {
        load::requests(address, head, CONNECTIONS, TIME).await.map(|rate| (rate.per_second, rate.p50, rate.p99))
    })
    .await
}

fn through<'a>(paths: &'a [Path_], heads: &Heads, face: impl Fn(&Path_) -> Option<SocketAddr>) -> Vec<Contender<'a>> {
    paths.iter().zip(heads).filter_map(|(path, head)| Some((path, face(path)?, head.clone()))).collect()
}

/// A path, where it begins, and what is asked for.
type Contender<'a> = (&'a Path_, SocketAddr, Arc<[u8]>);

async fn table<F>(title: &str, paths: &[Contender<'_>], load: impl Fn(SocketAddr, Arc<[u8]>) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<(f64, Duration, Duration)>>,
{
    let mut seen: Vec<Vec<Seen>> = paths.iter().map(|_| Vec::new()).collect();
    for (_, address, head) in paths {
        load::requests(*address, head.clone(), CONNECTIONS, Duration::from_millis(300)).await?;
    }
    for _ in 0..ROUNDS {
        for ((path, address, head), seen) in paths.iter().zip(&mut seen) {
            let before = path.cpu();
            let (per_second, p50, p99) = load(*address, head.clone()).await?;
            let micros = (path.cpu() - before).as_secs_f64() * 1e6 / (per_second * TIME.as_secs_f64());
            let [p50, p99] = [p50, p99].map(|time| time.as_secs_f64() * 1e6);
            seen.push(Seen { per_second, micros, p50, p99 });
        }
    }
    println!("| {title} | requests/s | CPU-µs each | p50 µs | p99 µs | resident MiB |\n|---|---|---|---|---|---|");
    for ((path, ..), seen) in paths.iter().zip(&seen) {
        println!(
            "| {} | {:.0} | {:.1} | {:.0} | {:.0} | {} |",
            path.name,
            median(seen.iter().map(|seen| seen.per_second)),
            median(seen.iter().map(|seen| seen.micros)),
            median(seen.iter().map(|seen| seen.p50)),
            median(seen.iter().map(|seen| seen.p99)),
            path.resident(),
        );
    }
    println!();
    Ok(())
}
