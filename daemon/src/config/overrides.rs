//! Values laid over the file before it is typed: environment, then flags, later wins.
//!
//! `CAUSEWAY_CONFIG__LOG__LEVEL=debug` means `log.level: debug`: names are lower-cased, `__` separates keys. The prefix
//! is long on purpose: Kubernetes itself sets variables such as `CAUSEWAY_GATEWAY_PORT` for a Service of that name.
//! Keys with other characters (`entities.factory-a.kind`) are reached by `--set`, where a key that holds a dot is
//! written in quotes (`hosts."db.example".port`) and a number selects an item that the file has (`listen.0.address`).
//! Values are YAML (`--set 'listen=[{address: "127.0.0.1:0"}]'`); what is not YAML is taken as text (`[::1]:8443`).
use std::{ffi::OsString, path::Path, rc::Rc};

use super::{
    ConfigError,
    tree::{Entry, Node, Origin, Value},
    yaml,
};

const PREFIX: &str = "CAUSEWAY_CONFIG__";

/// Values laid over a file, in order.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    list: Vec<Override>,
}

#[derive(Debug, Clone)]
struct Override {
    keys: Vec<String>,
    value: String,
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    Environment(String),
    Flag(String),
}

impl Overrides {
    /// From `CAUSEWAY_CONFIG__<KEY>__<KEY>=value` variables; all others are passed over.
    pub fn from_environment(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Self, ConfigError> {
        let mut list = Vec::new();
        for (name, value) in variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
            let wrong = |why: &str| ConfigError::Parse { message: format!("environment variable {name}: {why}") };
            let keys: Vec<_> = name[PREFIX.len()..].split("__").map(str::to_ascii_lowercase).collect();
            if keys.iter().any(String::is_empty) {
                return Err(wrong("write CAUSEWAY_CONFIG__KEY or CAUSEWAY_CONFIG__SECTION__KEY"));
            }
            let value = value.into_string().map_err(|_| wrong("the value is not UTF-8"))?;
            list.push(Override { keys, value, source: Source::Environment(name.to_owned()) });
        }
        // The order of the environment means nothing; by name, a section comes before its keys.
        list.sort_by(|a, b| a.keys.cmp(&b.keys));
        Ok(Self { list })
    }

    /// Then `--set key=value`, in the order typed.
    pub fn and_flags(mut self, flags: &[String]) -> Result<Self, ConfigError> {
        for flag in flags {
            let (key, value) = flag.split_once('=').ok_or_else(|| {
                // What follows may be anything, so it is not repeated.
                ConfigError::Parse { message: "--set: write KEY=VALUE, as in --set log.level=debug".to_owned() }
            })?;
            self.list.push(flag_override(key, value)?);
        }
        Ok(self)
    }

    pub(super) fn from_pairs(pairs: &[(String, String)]) -> Result<Self, ConfigError> {
        let list = pairs.iter().map(|(key, value)| flag_override(key, value)).collect::<Result<_, _>>()?;
        Ok(Self { list })
    }

    pub(super) fn lay_over(&self, tree: &mut Node, path: &Path) -> Result<(), ConfigError> {
        self.list.iter().try_for_each(|each| {
            let (origin, node) = each.node();
            set(tree, &each.keys, node, &origin).map_err(|why| ConfigError::Parse {
                message: format!("{}: {}: {why}", origin.place(path), each.keys.join(".")),
            })
        })
    }
}

impl Override {
    fn node(&self) -> (Origin, Node) {
        let origin = match &self.source {
            Source::Environment(name) => Origin::Environment(Rc::from(name.as_str())),
            Source::Flag(key) => Origin::Flag(Rc::from(key.as_str())),
        };
        let text = Value::Scalar { text: self.value.clone(), plain: false };
        let mut node = match yaml::parse(&self.value, Path::new("")) {
            // An empty document is an empty map, but an empty value is nothing.
            Ok(_) if self.value.trim().is_empty() => {
                Node { value: Value::Scalar { text: String::new(), plain: true }, origin: origin.clone() }
            }
            Ok(node) => node,
            Err(_) => Node { value: text, origin: origin.clone() },
        };
        node.relabel(&origin);
        (origin, node)
    }
}

fn flag_override(key: &str, value: &str) -> Result<Override, ConfigError> {
    let keys = split(key).ok_or_else(|| ConfigError::Parse {
        message: format!("--set {key}: not a key; write section.key, and \"…\" around a part that holds a dot"),
    })?;
    Ok(Override { keys, value: value.to_owned(), source: Source::Flag(key.to_owned()) })
}

/// `a."b.c".0` into its parts.
fn split(dotted: &str) -> Option<Vec<String>> {
    let (mut parts, mut rest) = (Vec::new(), dotted);
    loop {
        let (part, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => rest.split_at(rest.find('.').unwrap_or(rest.len())),
        };
        if part.is_empty() {
            return None;
        }
        parts.push(part.to_owned());
        if after.is_empty() {
            return Some(parts);
        }
        rest = after.strip_prefix('.')?;
    }
}

fn set(at: &mut Node, keys: &[String], value: Node, origin: &Origin) -> Result<(), String> {
    let Some((key, rest)) = keys.split_first() else {
        merge(at, value);
        return Ok(());
    };
    if at.is_null() {
        *at = Node::empty_map(origin.clone());
    }
    match &mut at.value {
        Value::Map(entries) => {
            let index = entries.iter().position(|entry| entry.key == *key).unwrap_or_else(|| {
                let node = Node { value: Value::Scalar { text: String::new(), plain: true }, origin: origin.clone() };
                entries.push(Entry { key: key.clone(), origin: origin.clone(), node });
                entries.len() - 1
            });
            let entry = &mut entries[index];
            if rest.is_empty() {
                entry.origin = origin.clone();
            }
            set(&mut entry.node, rest, value, origin)
        }
        Value::List(items) => {
            let count = items.len();
            let item = key.parse().ok().and_then(|index: usize| items.get_mut(index));
            let item = item.ok_or_else(|| format!("this is a list of {count}; {key} is no item of it"))?;
            set(item, rest, value, origin)
        }
        Value::Scalar { .. } => Err(format!("there is a single value above {key}, so nothing can be set inside it")),
    }
}

/// Maps merge, all else replaces.
fn merge(at: &mut Node, over: Node) {
    match (&mut at.value, over.value) {
        (Value::Map(entries), Value::Map(more)) => {
            for entry in more {
                match entries.iter_mut().find(|known| known.key == entry.key) {
                    Some(known) => {
                        known.origin = entry.origin;
                        merge(&mut known.node, entry.node);
                    }
                    None => entries.push(entry),
                }
            }
        }
        (at_value, value) => {
            *at_value = value;
            at.origin = over.origin;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_split_at_dots_outside_quotes() {
        assert_eq!(split("log.level").unwrap(), ["log", "level"]);
        assert_eq!(split(r#"hosts."db.example".port"#).unwrap(), ["hosts", "db.example", "port"]);
        assert_eq!(split("listen.0.address").unwrap(), ["listen", "0", "address"]);
        for wrong in ["", ".", "a.", ".a", "a..b", "\"a", "\"a\"b", "\"\""] {
            assert_eq!(split(wrong), None, "{wrong}");
        }
    }
}
