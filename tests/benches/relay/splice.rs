//! Bytes through the splice, TLS on both legs, against haproxy doing the same work for bytes that it does not look into.
//! Both get one core to themselves; the load runs on the other. Contenders take turns, round by round.
use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use causeway_tests::process::Process;
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};
use tokio_rustls::TlsAcceptor;

use super::{
    bytes::{End, frames, one_frame},
    haproxy, median,
    peers::{Control, Dialer, Seen},
    world::World,
};

/// Payload bytes of one round, all connections together.
const BULK: u64 = 2 << 30;

/// Rounds; medians count.
const ROUNDS: usize = 7;

/// Echoes of one round.
const ECHOES: usize = 4000;

/// Connections and frame sizes.
const LOADS: [(usize, usize); 4] = [(1, 64 * 1024), (8, 64 * 1024), (1, 1 << 20), (1, 1024)];

/// Near and far end of a connection.
type Pair = (End, End);

struct Round {
    took: Duration,
    cpu: Duration,
}

/// Prints one row per load.
pub(crate) async fn run() -> anyhow::Result<()> {
    let world = World::start(1, true).await;
    let seen = Seen::of(&world, 1);
    let dialer = Dialer::new()?;
    let mut control = Control::open(&dialer, &seen, 0, 0).await?;
    let (invite, mut invited) = mpsc::channel(1);
    let mut listening = JoinSet::new();
    // Read on during the rounds: whoever answers no ping is cut off.
    listening.spawn(async move {
        while let Ok(target) = control.accept().await {
            if invite.send(target).await.is_err() {
                return;
            }
        }
    });
    let target = TcpListener::bind("127.0.0.1:0").await?;
    let (haproxy, front) = haproxy::start(world.path(), target.local_addr()?).await?;
    let acceptor = world.pki.acceptor([127, 0, 0, 1].into());
    println!(
        "| connections | bytes a frame | relay Gbit/s | haproxy Gbit/s | ratio | relay CPU-s/GiB | haproxy CPU-s/GiB | ratio |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (connections, size) in LOADS {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..connections {
            ours.push(relayed(&dialer, &seen, &mut invited).await?);
            theirs.push(proxied(&dialer, front, &target, &acceptor).await?);
        }
        let suites: HashSet<String> =
            ours.iter().chain(&theirs).flat_map(|(near, far)| [near.suite(), far.suite()]).collect();
        anyhow::ensure!(suites.len() == 1, "the paths differ in their cipher: {suites:?}");
        let (mut relay, mut rival) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let (one, other);
            (ours, one) = measured(ours, size, &world.relay).await?;
            (theirs, other) = measured(theirs, size, &haproxy).await?;
            // One round unmeasured: everything warms up.
            if round > 0 {
                relay.push(one);
                rival.push(other);
            }
        }
        row(connections, size, &relay, &rival);
        for (near, far) in ours.into_iter().chain(theirs) {
            near.close();
            far.close();
        }
    }
    let ours = relayed(&dialer, &seen, &mut invited).await?;
    let theirs = proxied(&dialer, front, &target, &acceptor).await?;
    echoes(&world, &haproxy, ours, theirs).await
}

/// A sender and a listener that met in the relay.
async fn relayed(dialer: &Dialer, seen: &Seen, invited: &mut mpsc::Receiver<String>) -> anyhow::Result<Pair> {
    let sender = dialer.upgrade(seen.address, "/$hc/e0?sb-hc-action=connect", Some(&seen.send[0]));
    let listener = async {
        let target = invited.recv().await.context("the control channel was lost")?;
        dialer.upgrade(seen.address, &target, None).await
    };
    let (near, far) = tokio::try_join!(sender, listener)?;
    Ok((end(near)?, end(far)?))
}

/// A client of haproxy and the server behind it.
async fn proxied(
    dialer: &Dialer,
    front: SocketAddr,
    target: &TcpListener,
    acceptor: &TlsAcceptor,
) -> anyhow::Result<Pair> {
    let near = dialer.connect(front);
    let far = async {
        loop {
            // The look at haproxy's port, when it started, came through without TLS.
            let (stream, _) = target.accept().await?;
            stream.set_nodelay(true)?;
            if let Ok(far) = acceptor.accept(stream).await {
                return anyhow::Ok(far);
            }
        }
    };
    let (near, far) = tokio::try_join!(near, far)?;
    let (stream, tls) = far.into_inner();
    Ok((end(near)?, End::new(stream, tls)?))
}

fn end(stream: super::peers::Stream) -> anyhow::Result<End> {
    let (stream, tls) = stream.into_inner();
    End::new(stream, tls)
}

/// Sends a round over all pairs at once.
async fn measured(pairs: Vec<Pair>, size: usize, process: &Process) -> anyhow::Result<(Vec<Pair>, Round)> {
    let (wire, payload) = frames(size);
    let wire: Arc<[u8]> = wire.into();
    let turns = BULK / payload / pairs.len() as u64;
    let (before, began) = (process.cpu(), Instant::now());
    let mut threads = Vec::new();
    for (mut near, mut far) in pairs {
        let wire = wire.clone();
        let near = tokio::task::spawn_blocking(move || {
            for _ in 0..turns {
                near.send(&wire)?;
            }
            anyhow::Ok(near)
        });
        let far = tokio::task::spawn_blocking(move || far.receive(turns * payload).map(|()| far));
        threads.push((near, far));
    }
    let mut pairs = Vec::new();
    for (near, far) in threads {
        pairs.push((near.await??, far.await??));
    }
    Ok((pairs, Round { took: began.elapsed(), cpu: process.cpu() - before }))
}

fn row(connections: usize, size: usize, relay: &[Round], rival: &[Round]) {
    let gib = BULK as f64 / f64::from(1 << 30);
    let rate = |rounds: &[Round]| median(rounds.iter().map(|round| BULK as f64 * 8e-9 / round.took.as_secs_f64()));
    let cpu = |rounds: &[Round]| median(rounds.iter().map(|round| round.cpu.as_secs_f64() / gib));
    println!(
        "| {connections} | {size} | {:.2} | {:.2} | {:.2} | {:.3} | {:.3} | {:.2} |",
        rate(relay),
        rate(rival),
        rate(relay) / rate(rival),
        cpu(relay),
        cpu(rival),
        cpu(relay) / cpu(rival),
    );
}

/// One small message there and back, again and again: what a hop adds when nothing else is going on.
async fn echoes(world: &World, rival: &Process, ours: Pair, theirs: Pair) -> anyhow::Result<()> {
    let mut pairs = [(&world.relay, Some(ours), Vec::new()), (rival, Some(theirs), Vec::new())];
    for round in 0..=ROUNDS {
        for (process, pair, seen) in &mut pairs {
            let Some((near, far)) = pair.take() else { continue };
            let before = process.cpu();
            let (back, times) = echoed(near, far).await?;
            let cpu = (process.cpu() - before).as_secs_f64() * 1e6 / ECHOES as f64;
            *pair = Some(back);
            if round > 0 {
                seen.push((super::percentile(times.iter().copied(), 50), super::percentile(times, 99), cpu));
            }
        }
    }
    println!();
    println!("| echo of 64 bytes | p50 µs | p99 µs | CPU-µs |");
    println!("|---|---|---|---|");
    for (name, (_, _, seen)) in ["relay", "haproxy"].iter().zip(&pairs) {
        let of = |number: fn(&(f64, f64, f64)) -> f64| median(seen.iter().map(number));
        println!("| {name} | {:.0} | {:.0} | {:.0} |", of(|round| round.0), of(|round| round.1), of(|round| round.2));
    }
    for (near, far) in pairs.into_iter().filter_map(|(_, pair, _)| pair) {
        near.close();
        far.close();
    }
    Ok(())
}

async fn echoed(mut near: End, mut far: End) -> anyhow::Result<(Pair, Vec<f64>)> {
    let wire: Arc<[u8]> = one_frame(64).into();
    let answer = wire.clone();
    let far = tokio::task::spawn_blocking(move || {
        for _ in 0..ECHOES {
            far.receive(64)?;
            far.send(&answer)?;
        }
        anyhow::Ok(far)
    });
    let near = tokio::task::spawn_blocking(move || {
        let mut times = Vec::with_capacity(ECHOES);
        for _ in 0..ECHOES {
            let began = Instant::now();
            near.send(&wire)?;
            near.receive(64)?;
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
        anyhow::Ok((near, times))
    });
    let (near, times) = near.await??;
    Ok(((near, far.await??), times))
}
