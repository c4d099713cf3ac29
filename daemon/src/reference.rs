//! Reference pages in Markdown, made from what the code says about itself: configuration from its schema, failures from
//! their catalogues. The pages hold nothing that is not in the code, so they cannot fall behind it.
use std::fmt::Write as _;

use schemars::Schema;
use serde_json::Value;

use crate::{metrics::Metrics, schema::Place};

/// Deepest key that is listed; ours have six parts at most, so only a type that holds itself ends here.
const DEPTH_MAX: usize = 10;

/// One failure of a catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogueRow {
    /// Stable code: `policy_denied`.
    pub code: String,
    /// What it means.
    pub meaning: String,
    /// The next thing to do.
    pub remedy: String,
}

/// One key of a configuration.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    key: String,
    kind: String,
    default: String,
    description: String,
}

/// A configuration reference: every key with type, default and meaning, in a section of this title. `<name>` in a key
/// stands for a key that the owner chooses, `[]` for any item of a list. See [`crate::schema::of_program`].
pub fn config_page(title: &str, schema: &Schema) -> String {
    let mut rows = Vec::new();
    if let Some(root) = Place::root(schema) {
        collect(root, "", &mut rows, 0);
    }
    let mut page = format!("## {title}\n\n| Key | Type | Default | Meaning |\n|---|---|---|---|\n");
    for Row { key, kind, default, description } in rows {
        // Writing to a String does not fail.
        let _ = writeln!(page, "| `{key}` | {} | {} | {} |", cell(&kind), cell(&default), cell(&description));
    }
    page
}

/// A catalogue of failures: code, meaning, remedy, in a section of this title.
pub fn catalogue_page(title: &str, rows: &[CatalogueRow]) -> String {
    let mut page = format!("## {title}\n\n| Code | Meaning | What to do |\n|---|---|---|\n");
    for CatalogueRow { code, meaning, remedy } in rows {
        let _ = writeln!(page, "| `{code}` | {} | {} |", cell(meaning), cell(remedy));
    }
    page
}

/// The families of a registry in which each has an example: name, type, labels and meaning, in a section of this title.
pub fn metrics_page(title: &str, metrics: &Metrics) -> String {
    let text = metrics.encode();
    let mut page = format!("## {title}\n\n| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n");
    let mut help = "";
    let lines: Vec<_> = text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        if let Some(told) = line.strip_prefix("# HELP ") {
            help = told.split_once(' ').map_or("", |(_, help)| help);
        }
        let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|told| told.split_once(' ')) else { continue };
        let series = lines.get(at + 1).copied().unwrap_or_default();
        let labels = series.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(labels, _)| labels);
        let labels: Vec<_> = labels
            .split(',')
            .filter_map(|label| label.split_once('='))
            .map(|(label, _)| label)
            // The bounds of a histogram, which every one has.
            .filter(|label| *label != "le")
            .map(|label| format!("`{label}`"))
            .collect();
        let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
        // The format ends each meaning with a full stop of its own.
        let help = help.strip_suffix('.').unwrap_or(help);
        let _ = writeln!(page, "| `{name}` | {kind} | {} | {} |", labels.join(", "), cell(help));
    }
    page
}

fn collect(place: Place<'_>, prefix: &str, rows: &mut Vec<Row>, depth: usize) {
    if depth > DEPTH_MAX || place.is_secret() {
        return;
    }
    for at in place.alternatives() {
        for (name, child) in at.properties() {
            let key = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
            // Several shapes of a choice may share a key.
            if rows.iter().all(|row| row.key != key) {
                rows.push(row(&key, child, at.requires(name)));
                collect(child, &key, rows, depth + 1);
            }
        }
        if let Some(item) = at.items() {
            collect(item, &format!("{prefix}[]"), rows, depth + 1);
        }
        if let Some(any) = at.any_key() {
            collect(any, &format!("{prefix}.<name>"), rows, depth + 1);
        }
    }
}

fn row(key: &str, place: Place<'_>, required: bool) -> Row {
    let default = match place.default() {
        Some(Value::String(empty)) if empty.is_empty() => "empty".to_owned(),
        Some(default) => format!("`{}`", text_of(default)),
        None if required => "required".to_owned(),
        None => place.described_default().unwrap_or_default().to_owned(),
    };
    let mut description = place.description().to_owned();
    for (word, says) in words(place) {
        if !says.is_empty() {
            let _ = write!(description, " `{word}`: {says}");
        }
    }
    Row { key: key.to_owned(), kind: kind(place), default, description }
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Fixed words that may be written here, with what each means.
fn words<'a>(place: Place<'a>) -> Vec<(&'a str, &'a str)> {
    let mut found = Vec::new();
    for at in place.alternatives() {
        let listed = at.says("enum").and_then(Value::as_array).into_iter().flatten();
        found.extend(listed.filter_map(Value::as_str).map(|word| (word, "")));
        found.extend(at.says("const").and_then(Value::as_str).map(|word| (word, at.description())));
    }
    found
}

fn kind(place: Place<'_>) -> String {
    if place.is_secret() {
        return "secret".to_owned();
    }
    let words = words(place);
    let mut kinds: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
    for at in place.alternatives().into_iter().filter(|at| at.says("const").is_none() && at.says("enum").is_none()) {
        let kind = kind_of(at);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    if kinds.is_empty() { "any".to_owned() } else { kinds.join(" or ") }
}

fn kind_of(place: Place<'_>) -> String {
    if let Some(format @ ("size" | "time")) = place.says("format").and_then(Value::as_str) {
        return format.to_owned();
    }
    let named = match place.says("type") {
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null"),
        Some(kind) => kind.as_str(),
        None => None,
    };
    match named.unwrap_or("any") {
        "array" => place.items().map_or_else(|| "list".to_owned(), |item| format!("list of {}", kind(item))),
        "object" if place.any_key().is_some() => "map".to_owned(),
        "object" => "section".to_owned(),
        "string" => "text".to_owned(),
        "boolean" => "true or false".to_owned(),
        other => other.to_owned(),
    }
}

/// One line, and no character that ends a cell.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[cfg(test)]
mod tests;
