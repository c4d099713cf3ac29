//! `relay entity list`.
use std::io::Write;

use serde_json::Value;

use super::{OwnerError, Which, add::say, home::Home, running};

/// Of which relay.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
}

pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<(), OwnerError> {
    let home = Home::open(&args.which)?;
    let status = running::status(&home);
    let mut rows = vec![["NAME", "RULES", "LISTENERS", "SENDERS", "FILE"].map(str::to_owned)];
    for written in home.entities()?.into_values() {
        let live = status.as_ref().ok().map(|status| &status["relay"]["entities"][&written.name]);
        let count = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
        let listeners = live.and_then(|live| live["listeners"].as_array()).map(|all| all.len() as u64);
        let senders = live.and_then(|live| live["senders"].as_u64());
        let name = if written.config.enabled { written.name } else { format!("{} (disabled)", written.name) };
        let rules = written.config.rules.into_keys().collect::<Vec<_>>().join(", ");
        rows.push([name, rules, count(listeners), count(senders), home.shown(&written.at.file)]);
    }
    for line in table(&rows) {
        say(out, format_args!("{line}"))?;
    }
    match &status {
        Err(fate) => say(out, format_args!("{}", fate.told(""))),
        Ok(status) => match &status["relay"]["configuration"]["refused"] {
            Value::String(problem) => say(out, format_args!("the running relay refused the last change: {problem}")),
            _ => Ok(()),
        },
    }
}

/// Columns as wide as their widest cell.
fn table<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}
