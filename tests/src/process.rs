//! One real process: started, watched through its log, signalled, restarted, and killed when the test lets go of it.
use std::{
    ffi::OsString,
    net::SocketAddr,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    process::{Child, ChildStdin, Command},
    task::JoinSet,
};

use crate::{
    log::{Entry, Log},
    wait::{named, report},
};

/// Lines of a process's log that are printed when a test fails: the last ones.
const LINES_REPORTED: usize = 120;

/// Ticks per second in `/proc/<pid>/stat`: fixed at 100 for user space on Linux.
const TICKS: u32 = 100;

/// What to start.
#[derive(Debug, Clone)]
pub struct Spec {
    /// What it is called in reports.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Environment besides ours.
    pub env: Vec<(String, OsString)>,
    /// Where it runs.
    pub directory: PathBuf,
}

/// A running (or ended) process.
#[derive(Debug)]
pub struct Process {
    spec: Spec,
    child: Child,
    log: Log,
    readers: JoinSet<()>,
}

impl Process {
    /// Starts it. Standard error is its log; standard output is added to it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(spec: Spec) -> Self {
        Self::start_with_log(spec, Log::default(), Stdio::null())
    }

    /// Starts it with an input that the test writes; it ends when that is dropped, if the program wants it so.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_with_input(spec: Spec) -> (Self, ChildStdin) {
        let mut process = Self::start_with_log(spec, Log::default(), Stdio::piped());
        let input = process.child.stdin.take().expect("the input is piped");
        (process, input)
    }

    fn start_with_log(spec: Spec, log: Log, input: Stdio) -> Self {
        let mut child = Command::new(&spec.program)
            .args(&spec.args)
            // A developer's proxy settings or config overrides are not part of any test.
            .env_remove("HTTPS_PROXY")
            .env_remove("https_proxy")
            .env_remove("HTTP_PROXY")
            .env_remove("http_proxy")
            .env_remove("ALL_PROXY")
            .env_remove("all_proxy")
            .env_remove("RUST_LOG")
            .envs(spec.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&spec.directory)
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot be started ({}): {error}", spec.name, spec.program.display()));
        let mut readers = JoinSet::new();
        if let Some(stderr) = child.stderr.take() {
            readers.spawn(log.clone().read(stderr));
        }
        if let Some(stdout) = child.stdout.take() {
            readers.spawn(log.clone().read(stdout));
        }
        Self { spec, child, log, readers }
    }

    /// Its log so far, all lives of the process together.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The address that it logged when it had bound the port called `what`. Fails at once if the process ends instead.
    ///
    /// # Panics
    /// When the process ends before it listens.
    pub async fn address(&mut self, what: &str) -> SocketAddr {
        self.addresses(what, 1).await[0]
    }

    /// The first `count` addresses that it logged under `what`, in the order of the log.
    ///
    /// # Panics
    /// When the process ends before it listens on all of them.
    pub async fn addresses(&mut self, what: &str, count: usize) -> Vec<SocketAddr> {
        let name = self.spec.name.clone();
        let log = self.log.clone();
        let find = |entries: &[Entry]| {
            let found: Vec<SocketAddr> = entries
                .iter()
                .filter(|entry| entry.message() == "listening" && entry.field("what").as_deref() == Some(what))
                .filter_map(|entry| entry.field("address")?.parse().ok())
                .take(count)
                .collect();
            (found.len() == count).then_some(found)
        };
        let listening = named(format!("{name} to listen on {what}"), log.wait(find));
        tokio::select! {
            biased;
            found = listening => found,
            status = self.child.wait() => panic!("{name} ended ({status:?}) instead of listening on {what}"),
        }
    }

    /// Process id.
    ///
    /// # Panics
    /// When it has ended.
    pub fn id(&self) -> u32 {
        self.child.id().unwrap_or_else(|| panic!("{} has ended", self.spec.name))
    }

    /// Sends SIGTERM.
    ///
    /// # Panics
    /// When there is no such process any more.
    pub async fn terminate(&self) {
        // Through the shell's own `kill`: sending a signal to another process needs unsafe code or one more crate.
        let sent = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", self.id())).status().await;
        assert!(sent.is_ok_and(|status| status.success()), "{} cannot be sent a signal", self.spec.name);
    }

    /// Waits until it has ended and its log is complete.
    pub async fn ended(&mut self) -> ExitStatus {
        let status = named(format_args!("{} to end", self.spec.name), self.child.wait()).await;
        while self.readers.join_next().await.is_some() {}
        status.expect("a child can be waited for")
    }

    /// SIGTERM, and the exit code.
    pub async fn stop(&mut self) -> Option<i32> {
        self.terminate().await;
        self.ended().await.code()
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(&mut self) {
        self.child.start_kill().expect("a child can be killed");
        self.ended().await;
    }

    /// Starts it again, as it was or as `change` says; the log goes on.
    pub fn start_again(&mut self) {
        let next = Self::start_with_log(self.spec.clone(), self.log.clone(), Stdio::null());
        *self = next;
    }

    /// Resident memory in bytes.
    ///
    /// # Panics
    /// When the process has ended.
    pub fn resident(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("a live process has a status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a status has VmRSS");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("VmRSS is in KiB");
        kib * 1024
    }

    /// CPU time, user and system together, in all its threads.
    ///
    /// # Panics
    /// When the process has ended.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).expect("a live process has a stat");
        // Fields 14 and 15 (proc(5)), counted behind the command name, which may hold spaces.
        let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').skip(11).take(2));
        let ticks = fields.into_iter().flatten().filter_map(|field| field.parse::<u32>().ok()).sum::<u32>();
        Duration::from_secs(1) * ticks / TICKS
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = self.log.lines();
            report(format_args!("---- {} ({} lines)", self.spec.name, lines.len()));
            for line in lines.iter().skip(lines.len().saturating_sub(LINES_REPORTED)) {
                report(format_args!("{line}"));
            }
        }
    }
}
