//! Many streams: what an idle one holds, and whether connections that came and went leave anything behind.
use std::time::Duration;

use causeway_tests::{process::Process, site::Site};
use tokio::task::JoinSet;

use super::{
    load::Echo,
    world::{Setting, Targets, tunnelled},
};

/// Idle streams, as in the budgets.
const IDLE: usize = 10_000;
/// A face takes two thousand.
const FACES: usize = 5;
/// Connections that come and go, in turns of this many at once.
const CHURN: usize = 10_000;
const AT_ONCE: usize = 200;

const SETTING: Setting = Setting {
    through_relay: false,
    gateway: "limits: { streams_per_tunnel: 2000 }\n",
    cluster: "    tunnels: 8\n",
    echo_faces: FACES,
};

/// Memory per idle stream: the slope between one thousand and ten thousand.
pub(crate) async fn idle(targets: Targets) -> anyhow::Result<()> {
    let site = Site::new().await;
    let (path, faces) = tunnelled(&site, targets, SETTING).await?;
    let mut streams = Vec::with_capacity(IDLE);
    let mut at = Vec::new();
    for index in 0..IDLE {
        streams.push(Echo::connect(faces[index % FACES], 64).await?);
        if index + 1 == IDLE / 10 || index + 1 == IDLE {
            tokio::time::sleep(Duration::from_secs(1)).await;
            at.push(path.processes.iter().map(Process::resident).collect::<Vec<_>>());
        }
    }
    println!("| {IDLE} idle streams | resident MiB at {} | at {IDLE} | KiB each |\n|---|---|---|---|", IDLE / 10);
    for (index, name) in ["gateway", "connector"].into_iter().enumerate() {
        let [first, last] = [at[0][index], at[1][index]].map(|bytes| bytes as f64);
        let each = (last - first) / (IDLE - IDLE / 10) as f64 / 1024.0;
        let mebibyte = f64::from(1 << 20);
        println!("| {name} | {:.1} | {:.1} | {each:.2} |", first / mebibyte, last / mebibyte);
    }
    println!();
    Ok(())
}

/// What is there before and after connections that came and went.
pub(crate) async fn churn(targets: Targets) -> anyhow::Result<()> {
    let site = Site::new().await;
    let (path, faces) = tunnelled(&site, targets, SETTING).await?;
    println!("| {CHURN} connections | before: MiB, descriptors | after each time |\n|---|---|---|");
    let mut rows: Vec<Vec<String>> = vec![Vec::new(); 2];
    // The first time fills pools; what grows after it is a leak.
    for _ in 0..4 {
        for (row, process) in rows.iter_mut().zip(&path.processes) {
            row.push(format!("{:.1}, {}", process.resident() as f64 / f64::from(1 << 20), descriptors(process)?));
        }
        for _ in 0..CHURN / AT_ONCE {
            let mut tasks = JoinSet::new();
            for index in 0..AT_ONCE {
                let face = faces[index % FACES];
                tasks.spawn(async move { Echo::connect(face, 1024).await.map(drop) });
            }
            while let Some(done) = tasks.join_next().await {
                done??;
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for (name, row) in ["gateway", "connector"].into_iter().zip(rows) {
        println!("| {name} | {} | {} |", row[0], row[1..].join(" · "));
    }
    println!();
    Ok(())
}

fn descriptors(process: &Process) -> anyhow::Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", process.id()))?.count())
}
