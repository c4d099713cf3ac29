//! Walking a JSON schema as the configuration reference and `--print-config` need it: which keys there are, what each
//! is, and what holds when it is not written.
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value};

use crate::process::Settings;

/// The schema of a program's file: its own keys and the sections that every program has.
pub fn of_program<T: JsonSchema>() -> Schema {
    let mut generator = SchemaGenerator::default();
    let (own, common) = (generator.subschema_for::<T>(), generator.subschema_for::<Settings>());
    let definitions = generator.take_definitions(true);
    json_schema!({ "allOf": [own, common], "$defs": definitions })
}

/// The schema of a file that is no program's own.
pub fn of_file<T: JsonSchema>() -> Schema {
    SchemaGenerator::default().into_root_schema_for::<T>()
}

/// One place in a schema, with the definitions that it may refer to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    at: &'a Map<String, Value>,
    definitions: Option<&'a Map<String, Value>>,
}

/// Keywords whose alternatives are looked through alike.
const ALTERNATIVES: [&str; 3] = ["allOf", "anyOf", "oneOf"];

impl<'a> Place<'a> {
    pub(crate) fn root(schema: &'a Schema) -> Option<Self> {
        let at = schema.as_object()?;
        Some(Self { at, definitions: at.get("$defs").and_then(Value::as_object) })
    }

    /// What a keyword says here, or where a reference leads.
    pub(crate) fn says(self, keyword: &str) -> Option<&'a Value> {
        self.at.get(keyword).or_else(|| self.target()?.says(keyword))
    }

    /// The reference's name (`#/$defs/Span` is `Span`).
    pub(crate) fn name(self) -> Option<&'a str> {
        self.at.get("$ref")?.as_str()?.strip_prefix("#/$defs/")
    }

    /// Every alternative, references followed, nothing twice; a plain place is its own only one. `null` is left out.
    pub(crate) fn alternatives(self) -> Vec<Self> {
        let mut found = Vec::new();
        self.collect(&mut found, 0);
        found
    }

    fn collect(self, found: &mut Vec<Self>, depth: usize) {
        // References in a circle end here; ours nest three deep at most.
        if depth > 16 {
            return;
        }
        let parts = ALTERNATIVES.iter().filter_map(|keyword| self.at.get(*keyword)?.as_array()).flatten();
        let mut inner = parts.filter_map(Value::as_object).map(|at| Self { at, ..self }).peekable();
        let own = self.at.contains_key("properties")
            || self.at.contains_key("type")
            || self.at.contains_key("const")
            || self.at.contains_key("enum");
        if own && self.at.get("type").and_then(Value::as_str) != Some("null") {
            found.push(self);
        }
        if let Some(target) = self.target() {
            target.collect(found, depth + 1);
        } else if inner.peek().is_some() {
            inner.for_each(|part| part.collect(found, depth + 1));
        }
    }

    fn target(self) -> Option<Self> {
        let at = self.definitions?.get(self.name()?)?.as_object()?;
        Some(Self { at, ..self })
    }

    /// Keys that this place names, in the order of their names.
    pub(crate) fn properties(self) -> Vec<(&'a str, Self)> {
        let named = self.at.get("properties").and_then(Value::as_object).into_iter().flatten();
        let mut named: Vec<_> = named.filter_map(|(key, value)| Some((key.as_str(), self.into_part(value)?))).collect();
        // Whether the map keeps an order depends on features that other crates turn on.
        named.sort_by_key(|(key, _)| *key);
        named
    }

    /// What any other key leads to (a map with free keys).
    pub(crate) fn any_key(self) -> Option<Self> {
        self.into_part(self.at.get("additionalProperties")?)
    }

    /// What the items of a list are.
    pub(crate) fn items(self) -> Option<Self> {
        self.into_part(self.at.get("items")?)
    }

    /// What a key leads to, in any alternative.
    pub(crate) fn key(self, key: &str) -> Option<Self> {
        let alternatives = self.alternatives();
        let named = alternatives.iter().find_map(|at| at.properties().into_iter().find(|(name, _)| *name == key));
        named.map(|(_, place)| place).or_else(|| alternatives.iter().find_map(|at| at.any_key()))
    }

    /// What items are, in any alternative.
    pub(crate) fn item(self) -> Option<Self> {
        self.alternatives().iter().find_map(|at| at.items())
    }

    /// Whether secrets are meant.
    pub(crate) fn is_secret(self) -> bool {
        self.alternatives().iter().any(|at| at.at.contains_key(crate::config::SECRET_MARKER))
    }

    /// The value in force when nothing is written, if the type can say.
    pub(crate) fn default(self) -> Option<&'a Value> {
        self.at.get("default").filter(|default| !default.is_null())
    }

    /// The text on this place.
    pub(crate) fn description(self) -> &'a str {
        self.says("description").and_then(Value::as_str).unwrap_or_default()
    }

    /// The default as the description words it (`…; default 30s.`), for types that cannot say.
    pub(crate) fn described_default(self) -> Option<&'a str> {
        let text = self.description();
        let at = text.find("default ").or_else(|| text.find("Default "))?;
        let text = text[at..].split_at("default ".len()).1;
        let end = [";", ". ", ".\n"].iter().filter_map(|stop| text.find(stop)).min().unwrap_or(text.len());
        let text = text[..end].trim_end_matches('.');
        (!text.is_empty()).then_some(text)
    }

    /// Whether this key must be written in its map.
    pub(crate) fn requires(self, key: &str) -> bool {
        let required = self.at.get("required").and_then(Value::as_array);
        required.is_some_and(|names| names.iter().any(|name| name.as_str() == Some(key)))
    }

    fn into_part(self, value: &'a Value) -> Option<Self> {
        Some(Self { at: value.as_object()?, ..self })
    }
}
