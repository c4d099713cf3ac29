//! Logs: JSON lines for machines, plain lines for people, on standard error, dependencies capped at `info`.
//!
//! The level is for our own targets. Libraries print what passes through them at `debug` and `trace`, header values and
//! tokens included, so they stay at `info` unless `unsafe_dependencies` says otherwise, which is itself logged (SD-17).
//! `access` and `audit` lines are records, not diagnostics: they are always shown. `RUST_LOG` is not read, because an
//! environment variable must not be able to lift that cap; when it is set, one line says so.
use std::{
    io::{self, IsTerminal as _, Write},
    sync::OnceLock,
};

use serde::{Deserialize, Serialize};
use tracing::{info, level_filters::LevelFilter, warn};
use tracing_subscriber::{
    Layer as _, Registry, filter::FilterFn, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

/// Targets that are ours: module path roots, and the two record streams.
const OWN: [&str; 7] = ["proto", "daemon", "identity", "relay", "gateway", "causeway_local", "causeway_tests"];

/// Targets that are records and therefore always shown.
const RECORDS: [&str; 2] = ["access", "audit"];

type Filter = FilterFn<Box<dyn Fn(&tracing::Metadata<'_>) -> bool + Send + Sync>>;

/// What [`change`] turns; set by [`start`].
static FILTER: OnceLock<reload::Handle<Filter, Registry>> = OnceLock::new();

/// How lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One JSON object a line.
    #[default]
    Json,
    /// For a terminal.
    Human,
}

/// How much is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Someone must act.
    Error,
    /// Degraded.
    Warn,
    /// Lifecycle.
    #[default]
    Info,
    /// Decisions.
    Debug,
    /// Frames.
    Trace,
}

/// The `log:` section that every config file may have.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Line format, `json` or `human`; default json. Changing it needs a restart.
    pub format: Format,
    /// `error`, `warn`, `info`, `debug` or `trace` for our own targets; default info. Follows the file without a
    /// restart.
    pub level: Level,
    /// Lets libraries log at `level` too, where they may print tokens and payload; default false.
    pub unsafe_dependencies: bool,
}

/// Starts logging to standard error. Call once per process; a second call changes only what [`change`] can.
pub fn start(config: &Config) {
    let (filter, handle) = reload::Layer::new(filter(config));
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer = match config.format {
        // Fields stay in an object of their own: `target` is a field of access lines and a key of every line.
        Format::Json => layer.json().with_current_span(true).with_span_list(false).boxed(),
        Format::Human => layer.with_ansi(wants_colour()).with_writer(|| OneLine(std::io::stderr())).boxed(),
    };
    if tracing_subscriber::registry().with(layer.with_filter(filter)).try_init().is_err() {
        change(config);
        return;
    }
    // Set at most once: whoever wins `try_init` comes here.
    let _ = FILTER.set(handle);
    if std::env::var_os("RUST_LOG").is_some() {
        info!("RUST_LOG is set and not read: write log.level in the configuration instead");
    }
    warn_if_unsafe(config);
}

/// Takes over level and cap from a changed file; the format stays.
pub fn change(config: &Config) {
    let Some(handle) = FILTER.get() else { return };
    if let Err(error) = handle.reload(filter(config)) {
        warn!(%error, "log level could not be changed");
    }
    warn_if_unsafe(config);
}

fn warn_if_unsafe(config: &Config) {
    if config.unsafe_dependencies {
        warn!("log.unsafe_dependencies is on: libraries may log tokens and payload");
    }
}

fn filter(config: &Config) -> Filter {
    let own = config.level.filter();
    let dependencies = if config.unsafe_dependencies { own } else { own.min(LevelFilter::INFO) };
    let allowed = move |metadata: &tracing::Metadata<'_>| {
        let limit = match metadata.target() {
            target if belongs(target, &RECORDS) => own.max(LevelFilter::INFO),
            target if belongs(target, &OWN) => own,
            _ => dependencies,
        };
        *metadata.level() <= limit
    };
    let allowed: Box<dyn Fn(&tracing::Metadata<'_>) -> bool + Send + Sync> = Box::new(allowed);
    FilterFn::new(allowed).with_max_level_hint(own.max(LevelFilter::INFO))
}

/// Whole path segments: `relay` and `relay::serve`, not `relayed`.
fn belongs(target: &str, roots: &[&str]) -> bool {
    let root = target.split("::").next().unwrap_or(target);
    roots.contains(&root)
}

fn wants_colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Indents what follows a line break inside of one event, so that a peer's text cannot pass for a line of ours. Gets
/// whole events, as the formatter writes them.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let (body, end) = event.split_at(event.len() - usize::from(event.ends_with(b"\n")));
        let mut line = Vec::with_capacity(event.len());
        for (index, part) in body.split(|byte| *byte == b'\n').enumerate() {
            line.extend_from_slice(if index > 0 { b"\n    | " } else { b"" });
            line.extend_from_slice(part);
        }
        line.extend_from_slice(end);
        self.0.write_all(&line).map(|()| event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Level {
    fn filter(self) -> LevelFilter {
        match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What is written under `config` by `say`.
    fn written(config: &Config, say: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer().json().with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(layer.with_filter(filter(config)));
        tracing::subscriber::with_default(subscriber, say);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn at(level: Level) -> Config {
        Config { level, ..Config::default() }
    }

    #[test]
    fn libraries_stay_at_info_while_we_log_everything() {
        let text = written(&at(Level::Trace), || {
            tracing::trace!(target: "relay::serve", "ours");
            tracing::debug!(target: "h2::codec", "theirs, with a token");
            tracing::info!(target: "h2::codec", "theirs, harmless");
            tracing::debug!(target: "relayed", "looks like ours, is not");
        });
        assert!(text.contains("\"ours\"") && text.contains("harmless"), "{text}");
        assert!(!text.contains("token") && !text.contains("looks like"), "{text}");
    }

    #[test]
    fn the_cap_is_lifted_only_when_asked_for() {
        let config = Config { unsafe_dependencies: true, ..at(Level::Debug) };
        let text = written(&config, || tracing::debug!(target: "h2::codec", "theirs"));
        assert!(text.contains("theirs"), "{text}");
    }

    #[test]
    fn a_line_break_in_a_value_starts_no_line_for_people() {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || OneLine(writer.clone()));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!(reason = %"gone\n2026-01-01T00:00:00Z  INFO access: granted", "closed");
        });
        let bytes = lines.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.lines().filter(|line| line.starts_with("20")).count(), 1, "{text}");
        assert!(text.contains("\n    | 2026-01-01"), "{text}");
    }

    #[test]
    fn records_are_shown_at_every_level() {
        let text = written(&at(Level::Error), || {
            tracing::info!(target: "access", "one stream");
            tracing::info!(target: "audit", "one grant");
            tracing::info!(target: "gateway", "lifecycle");
        });
        assert!(text.contains("one stream") && text.contains("one grant"), "{text}");
        assert!(!text.contains("lifecycle"), "{text}");
    }
}
