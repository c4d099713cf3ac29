//! The processes that are measured: ours in both topologies, on one core; what drives them and what they lead to on the
//! others. They log into files, as in production, so that nobody spends the driver's time on reading logs.
use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::Context as _;
use causeway_tests::{
    process::{Process, Spec},
    programs,
    site::{CLUSTER, CONNECTOR, Site, direct_way, relay_way},
    topology::ready,
    wait::until,
};

/// The core of whatever is measured, if there are several.
pub(crate) const MEASURED_CORE: &str = "1";

/// One path to the targets.
pub(crate) struct Path_ {
    pub(crate) name: &'static str,
    /// Leads to the sink.
    pub(crate) bulk: SocketAddr,
    /// Leads to the echo service.
    pub(crate) echo: SocketAddr,
    /// Leads to the web server, as bare TCP.
    pub(crate) tcp: Option<SocketAddr>,
    /// Leads to the web server, request by request.
    pub(crate) http: Option<SocketAddr>,
    pub(crate) processes: Vec<Process>,
}

impl Path_ {
    /// CPU time of its processes so far.
    pub(crate) fn cpu(&self) -> Duration {
        self.processes.iter().map(Process::cpu).sum()
    }

    /// Resident memory of each process in MiB.
    pub(crate) fn resident(&self) -> String {
        let each =
            self.processes.iter().map(|process| format!("{:.0}", process.resident() as f64 / f64::from(1 << 20)));
        let each: Vec<_> = each.collect();
        if each.is_empty() { "–".to_owned() } else { each.join(" ") }
    }
}

/// Where the paths lead.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Targets {
    pub(crate) sink: SocketAddr,
    pub(crate) echo: SocketAddr,
}

/// More than one core is there.
pub(crate) fn has_cores() -> bool {
    std::thread::available_parallelism().is_ok_and(|count| count.get() > 1)
}

/// Starts a program on the measured core, logging into a file of its own; gives it and that file. Not beside the settings,
/// which are watched: each line would wake whoever watches them.
pub(crate) fn start(name: &str, program: PathBuf, folder: &Path, args: &[&str]) -> (Process, PathBuf) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let logs = folder.join("logs");
    std::fs::create_dir_all(&logs).expect("a folder can be made in the site's own");
    let log = logs.join(format!("{name}.{}.log", COUNT.fetch_add(1, Ordering::Relaxed)));
    let pinned = if has_cores() { format!("taskset -c {MEASURED_CORE} ") } else { String::new() };
    let script = format!("exec {pinned}\"$0\" \"$@\" 2>{} >&2", log.display());
    let mut all: Vec<OsString> = vec!["-c".into(), script.into(), program.into()];
    all.extend(args.iter().map(|arg| OsString::from(*arg)));
    let spec =
        Spec { name: name.to_owned(), program: "/bin/sh".into(), args: all, env: Vec::new(), directory: folder.into() };
    (Process::start(spec), log)
}

/// The first `count` addresses that a program of ours logged under `what`.
pub(crate) async fn addresses(log: &Path, what: &str, count: usize) -> Vec<SocketAddr> {
    let find = || {
        let text = std::fs::read_to_string(log).ok()?;
        let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let found: Vec<SocketAddr> = lines
            .filter(|line| line["fields"]["message"] == "listening" && line["fields"]["what"] == what)
            .filter_map(|line| line["fields"]["address"].as_str()?.parse().ok())
            .take(count)
            .collect();
        (found.len() == count).then_some(found)
    };
    until(format_args!("{} to name its {what}", log.display()), async || find()).await
}

/// The same with one.
pub(crate) async fn address(log: &Path, what: &str) -> SocketAddr {
    addresses(log, what, 1).await[0]
}

/// The request for the small file, and the file itself.
pub(crate) fn small(site: &Site) -> anyhow::Result<Vec<u8>> {
    std::fs::write(site.nginx.web().join("small"), "0123456789abcdef").context("the small file")?;
    Ok(format!("GET /small HTTP/1.1\r\nHost: web.test:{}\r\n\r\n", site.nginx.address.port()).into_bytes())
}

/// No tunnel at all.
pub(crate) fn straight(site: &Site, targets: Targets) -> Path_ {
    let web = site.nginx.address;
    Path_ {
        name: "straight",
        bulk: targets.sink,
        echo: targets.echo,
        tcp: Some(web),
        http: Some(web),
        processes: Vec::new(),
    }
}

/// How a tunnel is set up besides the usual.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Setting {
    pub(crate) through_relay: bool,
    /// Of the gateway's file.
    pub(crate) gateway: &'static str,
    /// Of the cluster in the connector's file.
    pub(crate) cluster: &'static str,
    /// Further faces that lead to the echo service.
    pub(crate) echo_faces: usize,
}

/// Our programs. Gives the path, and the addresses of the further faces.
pub(crate) async fn tunnelled(
    site: &Site,
    targets: Targets,
    setting: Setting,
) -> anyhow::Result<(Path_, Vec<SocketAddr>)> {
    let Targets { sink, echo } = targets;
    let web = site.nginx.address;
    site.edit("gateway.yaml", "exceptions: [", &format!("exceptions: [\"{sink}\", \"{echo}\", "));
    // As in production.
    for file in ["gateway.yaml", "relay.yaml"] {
        site.edit(file, "level: debug", "level: info");
    }
    site.append("gateway.yaml", setting.gateway);
    let ports = [web, sink, echo].map(|address| address.port().to_string()).join(", ");
    site.write(
        "policy.yaml",
        &format!(
            "rules:
  - name: hold-a-tunnel
    who: {{ authenticator: tests, subjects: [{CONNECTOR}] }}
    describe: {{}}
  - name: web
    who: {{ authenticator: tests, subjects: [{CONNECTOR}] }}
    http: {{ hosts: [web.test], ports: [{}], methods: [GET], paths: [/**] }}
  - name: bytes
    who: {{ authenticator: tests, subjects: [{CONNECTOR}] }}
    tcp: {{ hosts: [web.test, echo.test], ports: [{ports}], bypasses_http: true }}
",
            web.port()
        ),
    );
    let (gateway, log) = start("gateway", programs::program("gateway"), site.path(), &["serve", "-c", "gateway.yaml"]);
    let gateway_address = address(&log, "tunnel").await;
    site.export_trust().await;
    let mut processes = vec![gateway];
    let (name, way) = if setting.through_relay {
        let (relay, log) = start("relay", programs::program("relay"), site.path(), &["serve", "-c", "relay.yaml"]);
        let relay_address = address(&log, "relay").await;
        site.write_listener(relay_address, gateway_address);
        site.edit("listener.yaml", "level: debug", "level: info");
        let (listener, log) =
            start("listener", programs::program("relay"), site.path(), &["listen", "-c", "listener.yaml"]);
        ready("listener", address(&log, "admin").await).await;
        processes.extend([relay, listener]);
        ("relay", relay_way(relay_address, CLUSTER))
    } else {
        ("direct", direct_way(gateway_address))
    };
    let more = format!("  - {{ tcp: 127.0.0.1:0, to: \"{CLUSTER}/echo.test:{}\", as: connector }}\n", echo.port());
    site.write(
        "bench.yaml",
        &format!(
            "clusters:
  {CLUSTER}:
    trust: {{ file: {CLUSTER}.trust.yaml }}
    ways:
      - {way}
    token: {{ source: file, path: connector.token }}
{}trust: {{ system: false, files: [ca.pem] }}
faces:
  - {{ http: 127.0.0.1:0, to: \"{CLUSTER}/web.test:{web}\", as: connector, hosts: [\"web.test:{web}\"] }}
  - {{ tcp: 127.0.0.1:0, to: \"{CLUSTER}/web.test:{web}\", as: connector, allow_http: true }}
  - {{ tcp: 127.0.0.1:0, to: \"{CLUSTER}/echo.test:{}\", as: connector }}
{}admin: {{ address: 127.0.0.1:0 }}
",
            setting.cluster,
            sink.port(),
            more.repeat(1 + setting.echo_faces),
            web = web.port(),
        ),
    );
    let (connector, log) =
        start("connector", programs::program("gateway"), site.path(), &["connect", "-c", "bench.yaml"]);
    let http = address(&log, "face-http").await;
    let tcp = addresses(&log, "face-tcp", 3 + setting.echo_faces).await;
    ready("connector", address(&log, "admin").await).await;
    processes.push(connector);
    let path = Path_ { name, bulk: tcp[1], echo: tcp[2], tcp: Some(tcp[0]), http: Some(http), processes };
    Ok((path, tcp[3..].to_vec()))
}
