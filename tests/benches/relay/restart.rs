//! A relay that is killed and comes back, with ten thousand listeners that all want to come back at once, and senders
//! that go on trying.
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use proto::retry::{LISTENER, Ladder};
use tokio::{
    io::AsyncReadExt as _,
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    idle::{AT_A_TIME, ENTITIES, LISTENERS},
    peers::{Control, Dialer, Refused, Seen},
    percentile,
    world::{World, check_descriptors},
};

/// Time between two senders.
const BETWEEN: Duration = Duration::from_millis(20);

/// Patience of a dial, as our listener has it.
const DIAL: Duration = Duration::from_secs(20);

/// How often the count of those that are back is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What a sender met.
enum Met {
    /// A listener, after so many milliseconds.
    Listener(f64),
    /// An answer that nobody listens yet.
    Nobody,
    /// No connection, or no answer.
    Nothing,
}

/// Prints how long it took, and what senders saw meanwhile.
pub(crate) async fn run() -> anyhow::Result<()> {
    check_descriptors(ENTITIES * LISTENERS + 2000)?;
    let mut world = World::start(ENTITIES, false).await;
    let (seen, dialer) = (Seen::of(&world, ENTITIES), Dialer::new()?);
    let (back, all) = (Arc::new(AtomicUsize::new(0)), ENTITIES * LISTENERS);
    let first = Arc::new(Semaphore::new(AT_A_TIME));
    let mut listeners = JoinSet::new();
    for index in 0..all {
        listeners.spawn(listen(index, dialer.clone(), seen.clone(), back.clone(), first.clone()));
    }
    reached(&back, all).await;
    world.relay.kill().await;
    back.store(0, Relaxed);
    let began = Instant::now();
    world.relay.start_again();
    let (told, mut outcomes) = mpsc::unbounded_channel();
    let mut senders = JoinSet::new();
    senders.spawn(send(dialer, seen, told));
    println!("| listeners back | after s |");
    println!("|---|---|");
    for percent in [50, 90, 99, 100] {
        reached(&back, all * percent / 100).await;
        println!("| {percent} % | {:.1} |", began.elapsed().as_secs_f64());
    }
    let cpu = world.relay.cpu();
    senders.shutdown().await;
    let (mut times, mut nobody, mut nothing, mut last) = (Vec::new(), 0, 0, 0.0_f64);
    while let Ok((at, met)) = outcomes.try_recv() {
        match met {
            Met::Listener(time) => times.push(time),
            Met::Nobody => nobody += 1,
            Met::Nothing => nothing += 1,
        }
        if !matches!(met, Met::Listener(_)) {
            last = last.max(at.duration_since(began).as_secs_f64());
        }
    }
    println!();
    println!(
        "Senders meanwhile: {} met a listener (p50 {:.0} ms, p99 {:.0} ms), {nobody} were told that nobody listens, \
         {nothing} got no answer, the last of both {last:.1} s after the start. Relay: {:.1} s of CPU, {:.0} MiB resident.",
        times.len(),
        percentile(times.iter().copied(), 50),
        percentile(times.iter().copied(), 99),
        cpu.as_secs_f64(),
        world.relay.resident() as f64 / f64::from(1 << 20),
    );
    Ok(())
}

async fn reached(back: &AtomicUsize, count: usize) {
    while back.load(Relaxed) < count {
        sleep(LOOK_AGAIN).await;
    }
}

/// Comes back whenever it was lost, with the pauses that our listener makes.
async fn listen(index: usize, dialer: Dialer, seen: Arc<Seen>, back: Arc<AtomicUsize>, first: Arc<Semaphore>) {
    let entity = index % ENTITIES;
    let mut ladder = Ladder::new(LISTENER);
    // The first time is not what is measured: in good order.
    let mut turn = first.acquire_owned().await.ok();
    loop {
        if let Ok(Ok(mut control)) = timeout(DIAL, Control::open(&dialer, &seen, entity, index)).await {
            drop(turn.take());
            back.fetch_add(1, Relaxed);
            let mut joined = JoinSet::new();
            while let Ok(target) = control.accept().await {
                joined.spawn(meet(dialer.clone(), seen.clone(), target));
            }
            // As after a long healthy life.
            ladder = Ladder::new(LISTENER);
        }
        sleep(ladder.next_wait(None)).await;
    }
}

/// Stays with a sender until it leaves.
async fn meet(dialer: Dialer, seen: Arc<Seen>, target: String) {
    if let Ok(mut stream) = dialer.upgrade(seen.address, &target, None).await {
        // How it ends is all the same.
        let _ = stream.read(&mut [0; 16]).await;
    }
}

/// One sender after another, each for the next hybrid connection, whatever became of the one before.
async fn send(dialer: Dialer, seen: Arc<Seen>, told: mpsc::UnboundedSender<(Instant, Met)>) {
    let mut sending = JoinSet::new();
    for entity in (0..ENTITIES).cycle() {
        let (dialer, seen, told) = (dialer.clone(), seen.clone(), told.clone());
        sending.spawn(async move {
            let began = Instant::now();
            let target = format!("/$hc/e{entity}?sb-hc-action=connect");
            let met = match timeout(DIAL, dialer.upgrade(seen.address, &target, Some(&seen.send[entity]))).await {
                Ok(Ok(_)) => Met::Listener(began.elapsed().as_secs_f64() * 1e3),
                Ok(Err(error)) if error.is::<Refused>() => Met::Nobody,
                _ => Met::Nothing,
            };
            // Nobody asks any more when the bench is over.
            let _ = told.send((Instant::now(), met));
        });
        while sending.try_join_next().is_some() {}
        sleep(BETWEEN).await;
    }
}
