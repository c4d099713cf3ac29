//! Whether the lines of audit files still are what was written.
use std::{
    collections::HashMap,
    io::{self, BufRead, Read as _},
};

use serde_json::Value;

use super::file::{LINE_MAX, NOTHING_BEFORE, hash};

/// What an unbroken chain holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Lines.
    pub lines: u64,
    /// Processes that wrote them.
    pub instances: usize,
    /// Lines that a crash or a full disk cut off while they were written.
    pub torn: u64,
    /// Events that could not be written, as the lines themselves say.
    pub lost: u64,
    /// SHA-256 of the last line; whoever keeps it can show later that no tail was cut off.
    pub last: String,
}

/// Where a chain is broken.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The file cannot be read.
    #[error("line {line}: the file cannot be read")]
    Read {
        /// Counted from 1, as everywhere here.
        line: u64,
        /// Why not.
        source: io::Error,
    },
    /// A line does not follow the one before.
    #[error("line {line} does not follow line {}: one of them was changed, or lines between them are gone", line - 1)]
    Chain {
        /// The later line.
        line: u64,
    },
    /// The first line follows one that is not there.
    #[error("line 1 follows a line that is not in this file: its beginning is gone")]
    Beginning,
    /// An instance's count jumps.
    #[error("line {line}: instance {instance} counts {found} where {expected} was due")]
    Count {
        /// Which line.
        line: u64,
        /// The process's name.
        instance: String,
        /// What it says.
        found: u64,
        /// What it should say.
        expected: u64,
    },
    /// It is no audit line.
    #[error("line {line} is not an audit line")]
    Foreign {
        /// Which line.
        line: u64,
    },
}

/// Checks one file from its first line to its last. A line that is not JSON passes as torn if the one after follows it.
///
/// # Errors
/// The first place where the chain is broken.
pub fn verify(mut text: impl BufRead) -> Result<Verified, Broken> {
    let mut verified = Verified { lines: 0, instances: 0, torn: 0, lost: 0, last: NOTHING_BEFORE.to_owned() };
    let mut counts: HashMap<String, u64> = HashMap::new();
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let line = verified.lines + 1;
        let read = text.by_ref().take(LINE_MAX + 1).read_until(b'\n', &mut bytes);
        if read.map_err(|source| Broken::Read { line, source })? == 0 {
            verified.instances = counts.len();
            return Ok(verified);
        }
        let content = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        if content.len() as u64 > LINE_MAX {
            return Err(Broken::Foreign { line });
        }
        match serde_json::from_slice::<Value>(content) {
            Ok(value) => check(&value, line, &mut verified, &mut counts)?,
            Err(_) => verified.torn += 1,
        }
        verified.last = hash(content);
        verified.lines = line;
    }
}

fn check(value: &Value, line: u64, verified: &mut Verified, counts: &mut HashMap<String, u64>) -> Result<(), Broken> {
    let (Some(previous), Some(instance), Some(seq)) =
        (value["previous"].as_str(), value["instance"].as_str(), value["seq"].as_u64())
    else {
        return Err(Broken::Foreign { line });
    };
    if previous != verified.last {
        return Err(if line == 1 { Broken::Beginning } else { Broken::Chain { line } });
    }
    let begun = value["kind"] == "begun";
    if let Some(count) = counts.get(instance) {
        // Lines that could not be written were not counted, and what was written elsewhere meanwhile begins anew.
        if seq != count + 1 && !(begun && seq > *count) {
            return Err(Broken::Count { line, instance: instance.to_owned(), found: seq, expected: count + 1 });
        }
    } else if !begun {
        return Err(Broken::Count { line, instance: instance.to_owned(), found: seq, expected: 1 });
    }
    counts.insert(instance.to_owned(), seq);
    if value["kind"] == "lost" {
        verified.lost += value["lines"].as_u64().unwrap_or_default();
    }
    Ok(())
}
