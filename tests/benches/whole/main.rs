//! Whole processes under load: what a tunnel costs, as ratios to the same client talking straight to the target.
//!
//! `cargo bench -p causeway-tests --bench whole` runs it against the release programs (build them first:
//! `cargo build --release -p relay -p gateway`) and prints the rows of `RESULTS.md`. Every round measures the straight
//! path and both topologies one after the other, so that a noisy machine disturbs all three alike; medians are shown.
#![expect(clippy::print_stdout, reason = "a bench prints its results")]

mod load;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use causeway_tests::{
    process::Process,
    programs,
    site::{CLUSTER, CONNECTOR, Site, direct_way, relay_way},
    topology::ready,
};
use load::Rate;
use tokio::task::JoinSet;

/// Bytes of one bulk upload.
const BULK: u64 = 1 << 30;
/// Kept-alive connections of the small-request load, as in the budgets.
const CONNECTIONS: usize = 32;
/// How long one small-request load runs.
const REQUESTS_FOR: Duration = Duration::from_secs(4);
/// Rounds; the median of each number counts.
const ROUNDS: usize = 5;

/// One path to the target, and what was measured on it.
struct Path {
    name: &'static str,
    bulk: SocketAddr,
    /// Small requests as bare TCP.
    tcp: SocketAddr,
    /// Small requests through the HTTP face; the straight path has the same address twice.
    http: SocketAddr,
    head: Arc<[u8]>,
    processes: Vec<Process>,
    seen: Vec<Round>,
    /// What the processes run on; dropped after them.
    _site: Site,
}

struct Round {
    bulk: Duration,
    bulk_cpu: Duration,
    tcp: Rate,
    http: Rate,
    http_cpu: Duration,
}

fn main() -> anyhow::Result<()> {
    // `cargo test --benches` starts every bench with --test: compile only.
    if std::env::args().any(|argument| argument == "--test") {
        return Ok(());
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run())
}

async fn run() -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    let sink = load::sink(&mut tasks).await?;
    let mut paths = [straight(sink).await?, tunnelled(sink, false).await?, tunnelled(sink, true).await?];

    // One round unmeasured: tunnels, pools and windows warm up.
    for path in &mut paths {
        load::upload(path.bulk, BULK / 8).await?;
        load::requests(path.tcp, path.head.clone(), CONNECTIONS, Duration::from_millis(500)).await?;
        load::requests(path.http, path.head.clone(), CONNECTIONS, Duration::from_millis(500)).await?;
    }
    for _ in 0..ROUNDS {
        for path in &mut paths {
            let before = cpu(&path.processes);
            let bulk = load::upload(path.bulk, BULK).await?;
            let bulk_cpu = cpu(&path.processes) - before;
            let tcp = load::requests(path.tcp, path.head.clone(), CONNECTIONS, REQUESTS_FOR).await?;
            let before = cpu(&path.processes);
            let http = load::requests(path.http, path.head.clone(), CONNECTIONS, REQUESTS_FOR).await?;
            let http_cpu = cpu(&path.processes) - before;
            path.seen.push(Round { bulk, bulk_cpu, tcp, http, http_cpu });
        }
    }
    report(&mut paths);
    Ok(())
}

/// CPU time of some processes together.
fn cpu(processes: &[Process]) -> Duration {
    processes.iter().map(Process::cpu).sum()
}

/// A site whose nginx serves the small file, and the request for it.
async fn site() -> anyhow::Result<(Site, Arc<[u8]>)> {
    let site = Site::new().await;
    std::fs::write(site.nginx.web().join("small"), "0123456789abcdef")?;
    let port = site.nginx.address.port();
    let head = format!("GET /small HTTP/1.1\r\nHost: web.test:{port}\r\n\r\n");
    Ok((site, Arc::from(head.into_bytes())))
}

async fn straight(sink: SocketAddr) -> anyhow::Result<Path> {
    let (site, head) = site().await?;
    let nginx = site.nginx.address;
    Ok(Path {
        name: "straight",
        bulk: sink,
        tcp: nginx,
        http: nginx,
        head,
        processes: Vec::new(),
        seen: Vec::new(),
        _site: site,
    })
}

/// Starts gateway and connector, and relay and listener between them if asked.
async fn tunnelled(sink: SocketAddr, through_relay: bool) -> anyhow::Result<Path> {
    let (site, head) = site().await?;
    let nginx = site.nginx.address;
    site.edit("gateway.yaml", "exceptions: [", &format!("exceptions: [\"{sink}\", "));
    site.write(
        "policy.yaml",
        &format!(
            "rules:
  - name: hold-a-tunnel
    who: {{ authenticator: tests, subjects: [{CONNECTOR}] }}
    describe: {{}}
  - name: web
    who: {{ authenticator: tests, subjects: [{CONNECTOR}] }}
    http: {{ hosts: [web.test], ports: [{web}], methods: [GET], paths: [/**] }}
  - name: bytes
    who: {{ authenticator: tests, subjects: [{CONNECTOR}] }}
    tcp: {{ hosts: [web.test, echo.test], ports: [{web}, {sink}], bypasses_http: true }}
",
            web = nginx.port(),
            sink = sink.port()
        ),
    );
    let (gateway, gateway_address) = site.gateway().await;
    site.export_trust().await;
    let mut processes = vec![gateway];
    let (name, way) = if through_relay {
        let (relay, relay_address) = site.relay().await;
        let mut listener = site.listener(relay_address, gateway_address);
        let admin = listener.address("admin").await;
        ready("listener", admin).await;
        processes.extend([relay, listener]);
        ("relay", relay_way(relay_address, CLUSTER))
    } else {
        ("direct", direct_way(gateway_address))
    };
    site.write(
        "bench.yaml",
        &format!(
            "clusters:
  {CLUSTER}:
    trust: {{ file: {CLUSTER}.trust.yaml }}
    ways:
      - {way}
    token: {{ source: file, path: connector.token }}
trust: {{ system: false, files: [ca.pem] }}
faces:
  - {{ http: 127.0.0.1:0, to: \"{CLUSTER}/web.test:{web}\", as: connector, hosts: [\"web.test:{web}\"] }}
  - {{ tcp: 127.0.0.1:0, to: \"{CLUSTER}/web.test:{web}\", as: connector }}
  - {{ tcp: 127.0.0.1:0, to: \"{CLUSTER}/echo.test:{sink}\", as: connector }}
admin: {{ address: 127.0.0.1:0 }}
",
            web = nginx.port(),
            sink = sink.port(),
        ),
    );
    let mut connector = programs::start("connector", "gateway", site.path(), ["connect", "-c", "bench.yaml"]);
    let http = connector.address("face-http").await;
    let tcp = connector.addresses("face-tcp", 2).await;
    let admin = connector.address("admin").await;
    ready("connector", admin).await;
    processes.push(connector);
    Ok(Path { name, bulk: tcp[1], tcp: tcp[0], http, head, processes, seen: Vec::new(), _site: site })
}

fn report(paths: &mut [Path]) {
    let median = |path: &Path, number: fn(&Round) -> f64| {
        let mut numbers: Vec<f64> = path.seen.iter().map(number).collect();
        numbers.sort_by(f64::total_cmp);
        numbers[numbers.len() / 2]
    };
    let gigabits: fn(&Round) -> f64 = |round| BULK as f64 * 8.0 / 1e9 / round.bulk.as_secs_f64();
    let (bulk, tcp, http) = (
        median(&paths[0], gigabits),
        median(&paths[0], |r| r.tcp.per_second),
        median(&paths[0], |r| r.http.per_second),
    );
    println!(
        "| path | bulk Gbit/s | ratio | CPU-s/GiB | TCP face req/s | ratio | HTTP face req/s | ratio | p50 µs | p99 µs | CPU-µs/req | resident MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for path in paths.iter() {
        let resident: Vec<String> = path
            .processes
            .iter()
            .map(|process| format!("{:.0}", process.resident() as f64 / f64::from(1 << 20)))
            .collect();
        println!(
            "| {} | {:.2} | {:.2} | {:.2} | {:.0} | {:.2} | {:.0} | {:.2} | {:.0} | {:.0} | {:.0} | {} |",
            path.name,
            median(path, gigabits),
            median(path, gigabits) / bulk,
            median(path, |round| round.bulk_cpu.as_secs_f64() / (BULK as f64 / f64::from(1 << 30))),
            median(path, |round| round.tcp.per_second),
            median(path, |round| round.tcp.per_second) / tcp,
            median(path, |round| round.http.per_second),
            median(path, |round| round.http.per_second) / http,
            median(path, |round| round.http.p50.as_secs_f64() * 1e6),
            median(path, |round| round.http.p99.as_secs_f64() * 1e6),
            median(path, |round| {
                round.http_cpu.as_secs_f64() * 1e6 / (round.http.per_second * REQUESTS_FOR.as_secs_f64())
            }),
            if resident.is_empty() { "–".to_owned() } else { resident.join(" ") },
        );
    }
}
