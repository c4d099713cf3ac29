//! A tree in which everything remembers where it came from. Scalars stay text: what they mean is decided by the type
//! that asks.
use std::{path::Path, rc::Rc};

use super::scalar::is_null;

/// A value and its origin.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    /// `plain` scalars may be numbers, booleans or null; quoted ones are text.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a map.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) origin: Origin,
    pub(super) node: Node,
}

/// Where a value was written. Lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    File { line: usize, column: usize },
    Environment(Rc<str>),
    Flag(Rc<str>),
}

impl Origin {
    /// For messages: `relay.yaml:3:5`, `environment variable X`, `--set a.b`.
    pub(super) fn place(&self, path: &Path) -> String {
        match self {
            Self::File { line, column } => format!("{}:{line}:{column}", path.display()),
            Self::Environment(name) => format!("environment variable {name}"),
            Self::Flag(key) => format!("--set {key}"),
        }
    }
}

impl Node {
    pub(super) fn empty_map(origin: Origin) -> Self {
        Self { value: Value::Map(Vec::new()), origin }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if is_null(text))
    }

    /// Takes the named keys out of a map, into a map of their own.
    pub(super) fn split(self, keys: &[&str]) -> (Self, Self) {
        let Value::Map(entries) = self.value else {
            return (Self::empty_map(self.origin.clone()), self);
        };
        let (taken, rest) = entries.into_iter().partition(|entry| keys.contains(&entry.key.as_str()));
        (Self { value: Value::Map(taken), origin: self.origin.clone() }, Self { value: Value::Map(rest), ..self })
    }

    /// Origin of what a dotted key (`faces[0].to`) leads to, or of the deepest part of it that exists.
    pub(super) fn nearest_origin(&self, dotted: &str) -> &Origin {
        let (mut at, mut origin, mut rest) = (self, &self.origin, dotted);
        while !rest.is_empty() {
            match &at.value {
                Value::Scalar { .. } => break,
                Value::Map(entries) => {
                    // Keys may hold dots themselves: the longest that fits is meant.
                    let after = |entry: &Entry| {
                        rest.strip_prefix(&entry.key).filter(|after| after.is_empty() || after.starts_with(['.', '[']))
                    };
                    let fitting = entries.iter().filter_map(|entry| Some((entry, after(entry)?)));
                    let Some((entry, after)) = fitting.max_by_key(|(entry, _)| entry.key.len()) else { break };
                    (at, origin, rest) = (&entry.node, &entry.origin, after);
                }
                Value::List(items) => {
                    let Some((index, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) else {
                        break;
                    };
                    let Some(item) = index.parse().ok().and_then(|index: usize| items.get(index)) else { break };
                    (at, origin, rest) = (item, &item.origin, after);
                }
            }
            rest = rest.strip_prefix('.').unwrap_or(rest);
        }
        origin
    }

    /// The same values, all from one origin.
    pub(super) fn relabel(&mut self, origin: &Origin) {
        self.origin = origin.clone();
        match &mut self.value {
            Value::Scalar { .. } => {}
            Value::List(items) => items.iter_mut().for_each(|item| item.relabel(origin)),
            Value::Map(entries) => {
                for entry in entries {
                    entry.origin = origin.clone();
                    entry.node.relabel(origin);
                }
            }
        }
    }
}
