//! Logs: JSON lines for machines, plain lines for people, dependencies capped at `info`.
use serde::Deserialize;

/// How lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One JSON object a line.
    #[default]
    Json,
    /// For a terminal.
    Human,
}

/// The `log:` section that every config file may have.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Line format.
    pub format: Format,
    /// error, warn, info, debug or trace for our own targets; default info.
    pub level: Option<String>,
}

/// Starts logging to standard error. Call once per process.
pub fn start(config: &Config) {
    let _ = config;
    todo!()
}
