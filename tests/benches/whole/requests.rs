//! Small HTTP requests: kept alive on 32 connections through TCP faces and HTTP faces, and on a new connection each.
use std::{sync::Arc, time::Duration};

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

/// Prints the tables.
pub(crate) async fn measure(paths: &[Path_], sites: &[Site]) -> anyhow::Result<()> {
    let heads: Vec<Arc<[u8]>> =
        sites.iter().map(|site| world::small(site).map(Arc::from)).collect::<anyhow::Result<_>>()?;
    let tcp: Vec<_> =
        paths.iter().zip(&heads).filter_map(|(path, head)| Some((path, path.tcp?, head.clone()))).collect();
    table("kept alive, bare TCP", &tcp, |address, head| async move {
        load::requests(address, head, CONNECTIONS, TIME).await.map(|rate| (rate.per_second, rate.p50, rate.p99))
    })
    .await?;
    table("a connection each, bare TCP", &tcp, |address, head| async move {
        let per_second = load::connections(address, head, 16, TIME).await?;
        Ok((per_second, Duration::ZERO, Duration::ZERO))
    })
    .await?;
    let chain = rivals::nginx_chain(&sites[0]).await?;
    let mut http: Vec<_> =
        paths.iter().zip(&heads).filter_map(|(path, head)| Some((path, path.http?, head.clone()))).collect();
    if let Some(address) = chain.http {
        http.push((&chain, address, heads[0].clone()));
    }
    table("kept alive, HTTP", &http, |address, head| async move {
        load::requests(address, head, CONNECTIONS, TIME).await.map(|rate| (rate.per_second, rate.p50, rate.p99))
    })
    .await
}

async fn table<F>(
    title: &str,
    paths: &[(&Path_, std::net::SocketAddr, Arc<[u8]>)],
    load: impl Fn(std::net::SocketAddr, Arc<[u8]>) -> F,
) -> anyhow::Result<()>
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
