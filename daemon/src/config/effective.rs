//! `--print-config`: every value in force, as YAML, each with where it came from. Secrets print as `(set)`, and what a
//! URL carries beside its address is masked. What the schema knows and nobody wrote is shown with its default.
use std::{fmt::Write as _, path::Path};

use schemars::Schema;

use super::tree::{Entry, Node, Value};
use crate::schema::Place;

/// Column at which origins begin, if the line is not longer.
const ORIGIN_COLUMN: usize = 48;

/// Renders the tree, completed from the schema.
pub(super) fn render(tree: &Node, schema: &Schema, path: &Path) -> String {
    let mut page = Page { text: format!("# {}\n", path.display()), path };
    page.map(entries(tree), Place::root(schema), 0);
    page.text
}

fn entries(node: &Node) -> &[Entry] {
    match &node.value {
        Value::Map(entries) => entries,
        Value::Scalar { .. } | Value::List(_) => &[],
    }
}

struct Page<'a> {
    text: String,
    path: &'a Path,
}

impl Page<'_> {
    fn map(&mut self, entries: &[Entry], place: Option<Place<'_>>, depth: usize) {
        for entry in entries {
            let lead = format!("{}{}:", indent(depth), key(&entry.key));
            self.value(&lead, &entry.node, place.and_then(|place| place.key(&entry.key)), depth + 1);
        }
        let unwritten = place.map(Place::alternatives).unwrap_or_default();
        // Of a choice of shapes, what the others would allow is no default of this one.
        let certain = unwritten.len() == 1 || depth == 0;
        for (name, place) in unwritten.into_iter().filter(|_| certain).flat_map(Place::properties) {
            if entries.iter().all(|entry| entry.key != name) {
                self.unwritten(name, place, depth);
            }
        }
    }

    /// `lead` is what stands before the value: a key or a dash.
    fn value(&mut self, lead: &str, node: &Node, place: Option<Place<'_>>, depth: usize) {
        let origin = node.origin.place(self.path);
        if place.is_some_and(Place::is_secret) {
            let from = entries(node).first().map(|entry| match &entry.node.value {
                Value::Scalar { text, .. } => format!("{origin}, {} {text}", entry.key),
                Value::List(_) | Value::Map(_) => origin.clone(),
            });
            return self.line(&format!("{lead} (set)"), &from.unwrap_or(origin));
        }
        match &node.value {
            Value::Scalar { text, plain } => self.line(&format!("{lead} {}", scalar(text, *plain)), &origin),
            Value::List(items) if items.is_empty() => self.line(&format!("{lead} []"), &origin),
            Value::List(items) => {
                self.bare(lead);
                for item in items {
                    self.value(&format!("{}-", indent(depth)), item, place.and_then(Place::item), depth + 1);
                }
            }
            Value::Map(entries) if entries.is_empty() => self.line(&format!("{lead} {{}}"), &origin),
            Value::Map(entries) => {
                self.bare(lead);
                self.map(entries, place, depth);
            }
        }
    }

    fn unwritten(&mut self, name: &str, place: Place<'_>, depth: usize) {
        let lead = format!("{}{}:", indent(depth), key(name));
        if let Some(default) = place.default() {
            return self.line(&format!("{lead} {default}"), "default");
        }
        let sections: Vec<_> = place.alternatives();
        if let [section] = sections.as_slice()
            && !section.properties().is_empty()
            && section.properties().iter().all(|(name, _)| !section.requires(name))
        {
            self.bare(&lead);
            return self.map(&[], Some(*section), depth + 1);
        }
        let says = place.described_default().map_or_else(|| "not set".to_owned(), |says| format!("default {says}"));
        self.line(&format!("{}# {}:", indent(depth), key(name)), &says);
    }

    fn line(&mut self, what: &str, origin: &str) {
        // Writing to a String does not fail.
        let _ = writeln!(self.text, "{what:<ORIGIN_COLUMN$} # {}", one_line(origin));
    }

    fn bare(&mut self, what: &str) {
        let _ = writeln!(self.text, "{what}");
    }
}

fn indent(depth: usize) -> String {
    "  ".repeat(depth)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn key(key: &str) -> String {
    let simple = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.' | '/');
    let plain = key.starts_with(|first: char| first.is_ascii_alphabetic()) && key.chars().all(simple);
    if plain { key.to_owned() } else { quoted(key) }
}

fn scalar(text: &str, plain: bool) -> String {
    let shown = masked(text);
    if plain && shown == text && !text.contains('\n') { text.to_owned() } else { quoted(&shown) }
}

/// JSON strings are YAML's double-quoted ones.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// User, password and query of a URL may be secrets.
fn masked(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let (address, query) = rest.split_once('?').map_or((rest, ""), |(address, _)| (address, "?(set)"));
    let end = address.find('/').unwrap_or(address.len());
    match address[..end].rfind('@') {
        Some(at) => format!("{scheme}://(set){}{query}", &address[at..]),
        None => format!("{scheme}://{address}{query}"),
    }
}
