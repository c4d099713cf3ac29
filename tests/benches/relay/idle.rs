//! Listeners that wait: resident memory of the relay for each, and the CPU that ten thousand of them cost.
use std::time::{Duration, Instant};

use super::{
    peers::{Control, Dialer, Seen},
    world::{World, check_descriptors},
};

/// Hybrid connections; 25 listeners each, as on Azure.
pub(crate) const ENTITIES: usize = 400;
pub(crate) const LISTENERS: usize = 25;

/// Where memory is looked at.
const STEPS: [usize; 4] = [0, 1000, 4000, 10_000];

/// Handshakes at a time.
pub(crate) const AT_A_TIME: usize = 64;

/// What handshakes leave behind is given back within this.
const SETTLE: Duration = Duration::from_secs(5);

/// How long CPU is looked at: several rounds of pings.
const IDLE: Duration = Duration::from_secs(100);

/// Prints memory per step and CPU at the last.
pub(crate) async fn run() -> anyhow::Result<()> {
    check_descriptors(ENTITIES * LISTENERS + 1000)?;
    let world = World::start(ENTITIES, false).await;
    let (seen, dialer) = (Seen::of(&world, ENTITIES), Dialer::new()?);
    let mut listeners = tokio::task::JoinSet::new();
    let (mut resident, mut open) = (Vec::new(), 0);
    for step in STEPS {
        while open < step {
            let mut opening = tokio::task::JoinSet::new();
            for index in open..step.min(open + AT_A_TIME) {
                let (dialer, seen) = (dialer.clone(), seen.clone());
                opening.spawn(async move { Control::open(&dialer, &seen, index / LISTENERS, index).await });
            }
            while let Some(control) = opening.join_next().await {
                let mut control = control??;
                // It waits for a sender that never comes, and answers pings.
                listeners.spawn(async move { control.accept().await });
                open += 1;
            }
        }
        tokio::time::sleep(SETTLE).await;
        resident.push((step, world.relay.resident()));
    }
    println!("| listeners | resident MiB | KiB a listener since 1,000 |");
    println!("|---|---|---|");
    let (from, base) = resident[1];
    for (step, bytes) in resident {
        let slope = if step > from {
            format!("{:.1}", (bytes - base) as f64 / 1024.0 / (step - from) as f64)
        } else {
            "–".to_owned()
        };
        println!("| {step} | {:.1} | {slope} |", bytes as f64 / f64::from(1 << 20));
    }
    let (before, began) = (world.relay.cpu(), Instant::now());
    tokio::time::sleep(IDLE).await;
    let share = (world.relay.cpu() - before).as_secs_f64() / began.elapsed().as_secs_f64();
    println!();
    println!("CPU with {open} idle listeners, pings included: {:.2} % of a core", share * 100.0);
    anyhow::ensure!(listeners.try_join_next().is_none(), "a listener was lost");
    Ok(())
}
