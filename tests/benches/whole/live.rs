//! Streams that somebody waits on, beside others that are stalled or move as much as they can.
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, task::JoinSet};

use super::{
    load::{self, Echo, percentile},
    median,
    world::Path_,
};

/// Live streams beside a stalled one.
const LIVE: usize = 100;
/// What each says.
const WORD: usize = 64;
const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_secs(2);

/// Prints the tables.
pub(crate) async fn measure(paths: &[Path_]) -> anyhow::Result<()> {
    println!(
        "| 100 live streams, p99 µs | alone | beside a stalled reader | beside one stalled under 64-byte messages |"
    );
    println!("|---|---|---|---|");
    for path in paths.iter().filter(|path| path.name != "straight") {
        let mut streams = Vec::new();
        for _ in 0..LIVE {
            streams.push(Echo::connect(path.echo, WORD).await?);
        }
        let (mut alone, mut stalled, mut tiny) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            alone.push(round(&mut streams).await?);
            let held = stall(path, 64 * 1024).await?;
            stalled.push(round(&mut streams).await?);
            drop(held);
            let held = stall(path, 64).await?;
            tiny.push(round(&mut streams).await?);
            drop(held);
        }
        let [alone, stalled, tiny] = [alone, stalled, tiny].map(median);
        println!(
            "| {} | {alone:.0} | {stalled:.0} ({:+.0} %) | {tiny:.0} ({:+.0} %) |",
            path.name,
            (stalled / alone - 1.0) * 100.0,
            (tiny / alone - 1.0) * 100.0
        );
    }
    println!("\n| 64-byte echo, p99 µs | idle | beside a saturating upload | ratio |\n|---|---|---|---|");
    for path in paths {
        let (mut idle, mut busy) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let mut echo = Echo::connect(path.echo, WORD).await?;
            idle.push(one(&mut echo).await?);
            let mut bulk = JoinSet::new();
            let sink = path.bulk;
            bulk.spawn(async move { while load::upload(sink, 1 << 28).await.is_ok() {} });
            tokio::time::sleep(Duration::from_millis(200)).await;
            busy.push(one(&mut echo).await?);
        }
        let (idle, busy) = (median(idle), median(busy));
        println!("| {} | {idle:.0} | {busy:.0} | {:.1} |", path.name, busy / idle);
    }
    println!();
    Ok(())
}

/// p99 in µs of all streams, one word after the other on each.
async fn round(streams: &mut Vec<Echo>) -> anyhow::Result<f64> {
    let mut tasks = JoinSet::new();
    let began = Instant::now();
    for mut stream in std::mem::take(streams) {
        tasks.spawn(async move {
            let mut times = Vec::new();
            while began.elapsed() < TIME {
                times.push(stream.once().await?);
                // Live, not saturating: what waits is looked at, not how much goes through.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            anyhow::Ok((stream, times))
        });
    }
    let mut all = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (stream, times) = done??;
        streams.push(stream);
        all.extend(times);
    }
    Ok(percentile(&mut all, 99).as_secs_f64() * 1e6)
}

async fn one(echo: &mut Echo) -> anyhow::Result<f64> {
    let (began, mut times) = (Instant::now(), Vec::new());
    while began.elapsed() < TIME {
        times.push(echo.once().await?);
    }
    Ok(percentile(&mut times, 99).as_secs_f64() * 1e6)
}

/// A client that sends to the echo service and takes nothing back, until nothing moves any more.
async fn stall(path: &Path_, piece: usize) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(path.echo).await.context("connecting")?;
    stream.set_nodelay(true)?;
    let piece = vec![0; piece];
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(300), stream.write_all(&piece)).await {
        written?;
        // Each write its own message, as far as that can be had.
        if piece.len() < 1024 {
            tokio::task::yield_now().await;
        }
    }
    Ok(stream)
}
