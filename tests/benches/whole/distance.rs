//! One bulk upload over a long way: connector and gateway in network namespaces, between them a wire that delays every
//! packet (`wire.py`, because not every kernel has netem). Compared with plain TCP over the same wire.
use std::{net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, bail, ensure};
use causeway_tests::{
    process::Process,
    programs,
    site::{CLUSTER, CONNECTOR, Site, direct_way},
};
use tokio::task::JoinSet;

use super::{
    load, median,
    world::{address, start},
};

/// Round-trip times.
const DISTANCES: [u64; 3] = [0, 20, 100];
const ROUNDS: usize = 3;
const BULK: u64 = 256 << 20;
const NEAR: &str = "10.77.0.1";
const FAR: &str = "10.77.0.2";

/// Two namespaces and the wire; all gone when it is dropped.
struct Wire {
    near: String,
    far: String,
    _process: Process,
}

impl Wire {
    async fn new(folder: &std::path::Path, round_trip: u64) -> anyhow::Result<Self> {
        let id = std::process::id();
        let (near, far) = (format!("cwn{id}"), format!("cwf{id}"));
        ip(&["netns", "add", &near]).context("network namespaces need root")?;
        ip(&["netns", "add", &far])?;
        let script = programs::repository().join("tests/benches/whole/wire.py").display().to_string();
        let delay = format!("{}", round_trip as f64 / 2.0);
        let (process, log) = start("wire", "/usr/bin/python3".into(), folder, &[&script, &near, &far, &delay]);
        let wire = Self { near, far, _process: process };
        causeway_tests::wait::until("the wire to be there", async || {
            std::fs::read_to_string(&log).ok().filter(|text| text.contains("ready"))
        })
        .await;
        for (namespace, own) in [(&wire.near, NEAR), (&wire.far, FAR)] {
            ip(&["-n", namespace, "link", "set", "lo", "up"])?;
            ip(&["-n", namespace, "addr", "add", &format!("{own}/24"), "dev", "wire"])?;
            ip(&["-n", namespace, "link", "set", "wire", "mtu", "65000", "up"])?;
        }
        Ok(wire)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for namespace in [&self.near, &self.far] {
            // What is left of it goes with the machine.
            let _ = ip(&["netns", "del", namespace]);
        }
    }
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    let done = Command::new("/usr/sbin/ip").args(args).output()?;
    ensure!(done.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// Starts a program in a namespace.
fn within(namespace: &str, name: &str, program: PathBuf, site: &Site, args: &[&str]) -> (Process, PathBuf) {
    let program = program.display().to_string();
    let all: Vec<&str> = ["netns", "exec", namespace, &program].into_iter().chain(args.iter().copied()).collect();
    start(name, "/usr/sbin/ip".into(), site.path(), &all)
}

/// Prints the table.
pub(crate) async fn measure() -> anyhow::Result<()> {
    println!("| upload over a round trip of | plain TCP, Gbit/s | direct, Gbit/s | ratio |\n|---|---|---|---|");
    let own = std::env::current_exe()?;
    for distance in DISTANCES {
        let site = Site::new().await;
        let wire = Wire::new(site.path(), distance).await?;
        let (_sink, log) = within(&wire.far, "sink", own.clone(), &site, &["inside-sink"]);
        let port = address(&log, "sink").await.port();
        let (_gateway, _connector, face) = tunnel(&site, &wire, port).await?;
        let (plain, tunnelled) = (SocketAddr::new(FAR.parse()?, port), face);
        for path in [plain, tunnelled] {
            upload(&wire, &own, path, BULK / 2)?;
        }
        let (mut straight, mut through) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            straight.push(upload(&wire, &own, plain, BULK)?);
            through.push(upload(&wire, &own, tunnelled, BULK)?);
        }
        let gigabits = |seconds: Vec<f64>| BULK as f64 * 8.0 / 1e9 / median(seconds);
        let (plain, tunnelled) = (gigabits(straight), gigabits(through));
        println!("| {distance} ms | {plain:.2} | {tunnelled:.2} | {:.2} |", tunnelled / plain);
    }
    println!();
    Ok(())
}

/// A gateway at the far end and a connector at the near one; gives the face that leads to the sink.
async fn tunnel(site: &Site, wire: &Wire, sink: u16) -> anyhow::Result<(Process, Process, SocketAddr)> {
    site.edit("gateway.yaml", "level: debug", "level: info");
    site.edit("gateway.yaml", "exceptions: [", &format!("exceptions: [\"127.0.0.1:{sink}\", "));
    site.edit("gateway.yaml", &format!("{}:0", site.gateway_ip), &format!("{FAR}:0"));
    site.write(
        "policy.yaml",
        &format!(
            "rules:
  - {{ name: hold, who: {{ authenticator: tests, subjects: [{CONNECTOR}] }}, describe: {{}} }}
  - {{ name: sink, who: {{ authenticator: tests, subjects: [{CONNECTOR}] }}, tcp: {{ hosts: [echo.test], ports: [{sink}] }} }}
"
        ),
    );
    let program = programs::program("gateway");
    let (gateway, log) = within(&wire.far, "gateway", program.clone(), site, &["serve", "-c", "gateway.yaml"]);
    let at = address(&log, "tunnel").await;
    site.export_trust().await;
    site.write(
        "bench.yaml",
        &format!(
            "clusters:
  {CLUSTER}:
    trust: {{ file: {CLUSTER}.trust.yaml }}
    ways:
      - {}
    token: {{ source: file, path: connector.token }}
faces:
  - {{ tcp: 127.0.0.1:0, to: \"{CLUSTER}/echo.test:{sink}\", as: connector, bulk: true }}
admin: {{ address: 127.0.0.1:0 }}
",
            direct_way(at)
        ),
    );
    let (connector, log) = within(&wire.near, "connector", program, site, &["connect", "-c", "bench.yaml"]);
    Ok((gateway, connector, address(&log, "face-tcp").await))
}

/// Seconds of one upload from the near end.
fn upload(wire: &Wire, own: &std::path::Path, to: SocketAddr, bytes: u64) -> anyhow::Result<f64> {
    let run = Command::new("/usr/sbin/ip")
        .args(["netns", "exec", &wire.near])
        .arg(own)
        .args(["inside-upload", &to.to_string(), &bytes.to_string()])
        .output()?;
    ensure!(run.status.success(), "upload to {to}: {}", String::from_utf8_lossy(&run.stderr));
    Ok(String::from_utf8_lossy(&run.stdout).trim().parse()?)
}

/// What this program does when it was started in a namespace.
pub(crate) async fn inside(what: &str, rest: &[String]) -> anyhow::Result<()> {
    match (what, rest) {
        ("sink", []) => {
            let mut tasks = JoinSet::new();
            let address = load::sink_at("0.0.0.0:0", &mut tasks).await?;
            println!("{{\"fields\":{{\"message\":\"listening\",\"what\":\"sink\",\"address\":\"{address}\"}}}}");
            tokio::time::sleep(Duration::MAX).await;
            Ok(())
        }
        ("upload", [address, bytes]) => {
            println!("{}", load::upload(address.parse()?, bytes.parse()?).await?.as_secs_f64());
            Ok(())
        }
        _ => bail!("unknown: inside-{what}"),
    }
}
