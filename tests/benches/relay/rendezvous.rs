//! Meeting: senders that connect, are joined with a listener, and leave, one after another. Each costs the relay two TLS
//! handshakes, two upgrades, a token to check, a message on a control channel and two splices' ends.
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{io::AsyncReadExt as _, task::JoinSet};

use super::{
    median,
    peers::{Control, Dialer, Seen},
    percentile,
    world::World,
};

/// Hybrid connections, each with one listener.
const ENTITIES: usize = 8;

/// Senders at a time.
const SENDERS: [usize; 2] = [1, 32];

/// How long one round lasts.
const ROUND: Duration = Duration::from_secs(5);

/// Rounds; medians count.
const ROUNDS: usize = 5;

/// Prints one row per load.
pub(crate) async fn run() -> anyhow::Result<()> {
    let world = World::start(ENTITIES, true).await;
    let (seen, dialer) = (Seen::of(&world, ENTITIES), Dialer::new()?);
    let mut listeners = JoinSet::new();
    for entity in 0..ENTITIES {
        let control = Control::open(&dialer, &seen, entity, entity).await?;
        listeners.spawn(listen(control, dialer.clone(), seen.clone()));
    }
    println!("| senders at a time | set-ups a second | p50 ms | p99 ms | relay CPU-ms a set-up |");
    println!("|---|---|---|---|---|");
    for senders in SENDERS {
        let (mut rates, mut medians, mut tails, mut costs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let (before, began) = (world.relay.cpu(), Instant::now());
            let mut sending = JoinSet::new();
            for sender in 0..senders {
                sending.spawn(send(dialer.clone(), seen.clone(), sender, began + ROUND));
            }
            let mut times = Vec::new();
            while let Some(sent) = sending.join_next().await {
                times.extend(sent??);
            }
            let (took, cpu) = (began.elapsed().as_secs_f64(), (world.relay.cpu() - before).as_secs_f64());
            // One round unmeasured: everything warms up.
            if round > 0 {
                rates.push(times.len() as f64 / took);
                costs.push(cpu * 1e3 / times.len() as f64);
                medians.push(percentile(times.iter().copied(), 50));
                tails.push(percentile(times, 99));
            }
        }
        println!(
            "| {senders} | {:.0} | {:.2} | {:.2} | {:.3} |",
            median(rates),
            median(medians),
            median(tails),
            median(costs)
        );
    }
    anyhow::ensure!(listeners.try_join_next().is_none(), "a listener was lost");
    Ok(())
}

/// Accepts every sender and stays with it until it leaves.
async fn listen(mut control: Control, dialer: Dialer, seen: Arc<Seen>) -> anyhow::Result<()> {
    let mut joined = JoinSet::new();
    loop {
        let target = control.accept().await?;
        let (dialer, seen) = (dialer.clone(), seen.clone());
        joined.spawn(async move {
            let mut stream = dialer.upgrade(seen.address, &target, None).await?;
            // The sender leaves without a word; how it ends is all the same.
            let _ = stream.read(&mut [0; 16]).await;
            anyhow::Ok(())
        });
        while joined.try_join_next().is_some() {}
    }
}

/// Connects again and again; how long each took until its 101, in milliseconds.
async fn send(dialer: Dialer, seen: Arc<Seen>, sender: usize, until: Instant) -> anyhow::Result<Vec<f64>> {
    let entity = sender % ENTITIES;
    let target = format!("/$hc/e{entity}?sb-hc-action=connect");
    let mut times = Vec::new();
    while Instant::now() < until {
        let began = Instant::now();
        let stream = dialer.upgrade(seen.address, &target, Some(&seen.send[entity])).await?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
        drop(stream);
    }
    Ok(times)
}
