//! The life of a process, seen from outside: a real child, real signals, exit codes. The child is this test binary
//! itself, asked to run the one ignored test, which is a program like any other.
#![expect(clippy::unwrap_used, reason = "a test may end at the first surprise")]

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, ChildStderr, Command, ExitCode, Stdio},
};

use clap::Parser as _;
use daemon::{
    config::{Loaded, Validate},
    process::{self, CommonArgs, Context, Program, StartFailure, Threads},
};
use schemars::JsonSchema;
use serde::Deserialize;

const ARGS: &str = "CAUSEWAY_TEST_PROGRAM_ARGS";

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// How it behaves.
    mode: Mode,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// Drains at once, and says whether it can be dumped.
    Idle,
    /// Holds a task until it is forced.
    Busy,
    /// Refuses to start for a reason of its own.
    Fails,
    /// Refuses to start because of a file.
    FailsOnFile,
    /// Never finishes starting.
    Hangs,
    /// Panics in a task, then idles.
    Panics,
}

impl Validate for Config {}

#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("port is taken")]
    Port(#[source] std::io::Error),
    #[error("policy.yaml has no rules")]
    Policy,
}

impl StartFailure for StartError {
    fn is_bad_config(&self) -> bool {
        matches!(self, Self::Policy)
    }
}

async fn start(config: Loaded<Config>, context: Context) -> Result<(), StartError> {
    match config.values.mode {
        Mode::Idle => {
            let dumpable = rustix::process::dumpable_behavior().map(|behavior| format!("{behavior:?}"));
            tracing::info!(?dumpable, "memory");
            Ok(())
        }
        Mode::Busy => {
            let shutdown = context.shutdown.clone();
            context.shutdown.spawn(async move { shutdown.forced().await });
            Ok(())
        }
        Mode::Fails => Err(StartError::Port(std::io::Error::from(std::io::ErrorKind::AddrInUse))),
        Mode::FailsOnFile => Err(StartError::Policy),
        Mode::Hangs => std::future::pending().await,
        Mode::Panics => {
            let _ = context.shutdown.spawn(async { panic!("one task") }).await;
            Ok(())
        }
    }
}

#[derive(Debug, clap::Parser)]
struct Cli {
    #[command(flatten)]
    common: CommonArgs,
}

#[test]
#[ignore = "a program for the tests beside it, not a test"]
fn program() {
    let Ok(args) = std::env::var(ARGS) else { return };
    process::protect();
    let cli = Cli::parse_from(std::iter::once("tiny").chain(args.split(' ')));
    let program = Program { name: "tiny", metrics: "causeway_tiny", admin_port: 0, threads: Threads::One };
    let ended = process::run(&program, &cli.common, start);
    let code = [0, 1, 64].into_iter().find(|code| ended == ExitCode::from(*code)).expect("one of the documented codes");
    std::process::exit(code.into());
}

struct Running {
    child: Child,
    errors: BufReader<ChildStderr>,
    seen: String,
}

fn spawn(folder: &Path, config: &str, more: &str) -> Running {
    std::fs::write(folder.join("tiny.yaml"), config).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["program", "--exact", "--ignored", "--nocapture"])
        .env(ARGS, format!("-c {} {more}", folder.join("tiny.yaml").display()).trim_end())
        .env("RUST_LOG", "trace")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let errors = BufReader::new(child.stderr.take().unwrap());
    Running { child, errors, seen: String::new() }
}

impl Running {
    /// Reads on until a line holds this.
    fn until(&mut self, wanted: &str) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.errors.read_line(&mut line).unwrap(), 0, "{wanted} in\n{}", self.seen);
            self.seen.push_str(&line);
            if line.contains(wanted) {
                return line;
            }
        }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Exit code, standard output, standard error.
    fn end(mut self) -> (i32, String, String) {
        self.errors.read_to_string(&mut self.seen).unwrap();
        let mut output = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        (self.child.wait().unwrap().code().expect("it was not killed"), output, self.seen)
    }
}

#[test]
fn sigterm_drains_and_exits_with_0() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = spawn(folder.path(), "mode: idle\n", "");
    running.until("\"listening\"");
    running.until("\"started\"");
    running.signal("TERM");
    let (code, _, errors) = running.end();
    assert_eq!(code, 0, "{errors}");
    assert!(errors.contains("everything was finished"), "{errors}");
    assert!(errors.contains("RUST_LOG is set and not read"), "{errors}");
}

#[test]
fn memory_is_neither_dumped_nor_shown_to_a_neighbour() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = spawn(folder.path(), "mode: idle\n", "");
    let line = running.until("\"memory\"");
    assert!(line.contains("NotDumpable"), "{line}");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", running.child.id())).unwrap();
    let core: Vec<&str> =
        limits.lines().find(|line| line.starts_with("Max core file size")).unwrap().split_whitespace().collect();
    assert_eq!(core[4..], ["0", "0", "bytes"]);
    running.signal("TERM");
    assert_eq!(running.end().0, 0);
}

#[test]
fn what_outlives_the_grace_period_is_cut_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = spawn(folder.path(), "mode: busy\ngrace: 50ms\n", "");
    running.until("\"started\"");
    running.signal("INT");
    let (code, _, errors) = running.end();
    assert_eq!(code, 0, "{errors}");
    assert!(errors.contains("tasks were cut off") && errors.contains("\"cut\":1"), "{errors}");
}

#[test]
fn a_second_signal_ends_the_grace_period() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = spawn(folder.path(), "mode: busy\ngrace: 1h\n", "");
    running.until("\"started\"");
    running.signal("TERM");
    running.until("\"draining\"");
    running.signal("TERM");
    let (code, _, errors) = running.end();
    assert_eq!(code, 0, "{errors}");
    assert!(errors.contains("second signal") && errors.contains("tasks were cut off"), "{errors}");
}

#[test]
fn a_signal_during_start_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = spawn(folder.path(), "mode: hangs\n", "");
    running.until("\"listening\"");
    running.signal("TERM");
    assert_eq!(running.end().0, 0);
}

#[test]
fn bad_configuration_exits_with_64_and_names_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, errors) = spawn(folder.path(), "mod: idle\n", "").end();
    assert_eq!(code, 64, "{errors}");
    assert!(errors.contains("tiny.yaml:1:1: mod: unknown key; did you mean `mode`?"), "{errors}");
    let (code, _, errors) = spawn(folder.path(), "mode: fails_on_file\n", "").end();
    assert_eq!(code, 64, "{errors}");
    assert!(errors.contains("tiny: policy.yaml has no rules"), "{errors}");
    let (code, _, errors) = spawn(folder.path(), "mode: idle\n", "--set log.levle=debug").end();
    assert_eq!(code, 64, "{errors}");
    assert!(errors.contains("--set log.levle: log.levle: unknown key; did you mean `level`?"), "{errors}");
}

#[test]
fn a_failed_start_exits_with_1_and_explains() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, errors) = spawn(folder.path(), "mode: fails\n", "").end();
    assert_eq!(code, 1, "{errors}");
    assert!(errors.contains("tiny: port is taken\n  because: address in use\n"), "{errors}");
}

#[test]
fn an_admin_port_that_is_taken_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (code, _, errors) = spawn(folder.path(), &format!("mode: idle\nadmin: {{ address: '{address}' }}\n"), "").end();
    assert_eq!(code, 1, "{errors}");
    assert!(errors.contains(&format!("admin port {address} cannot be bound")), "{errors}");
}

#[test]
fn print_config_shows_the_effective_values_and_starts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (code, output, errors) = spawn(folder.path(), "mode: busy\n", "--print-config --set grace=7s").end();
    assert_eq!(code, 0, "{errors}");
    assert!(output.contains("mode: busy") && output.contains("grace: 7s"), "{output}");
    assert!(output.contains("--set grace") && !errors.contains("listening"), "{output}{errors}");
}

#[test]
fn the_log_level_follows_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = spawn(folder.path(), "mode: idle\n", "");
    running.until("\"started\"");
    std::fs::write(folder.path().join("tiny.yaml"), "mode: idle\nlog: { levl: error }\n").unwrap();
    running.until("not usable");
    std::fs::write(folder.path().join("tiny.yaml"), "mode: idle\nlog: { level: error }\n").unwrap();
    // At this level only records are shown any more.
    let taken_over = running.until("\"level\":\"Error\"");
    assert!(taken_over.contains("log.level is in force"), "{taken_over}");
    running.signal("TERM");
    let (code, _, errors) = running.end();
    assert_eq!(code, 0, "{errors}");
    assert!(!errors.contains("everything was finished"), "{errors}");
}

#[test]
fn a_panic_in_one_task_is_a_log_line_and_ends_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = spawn(folder.path(), "mode: panics\n", "");
    let line = running.until("task panicked");
    assert!(line.starts_with('{') && line.contains("one task") && line.contains("process.rs"), "{line}");
    running.until("\"started\"");
    running.signal("TERM");
    assert_eq!(running.end().0, 0);
}
