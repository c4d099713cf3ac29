//! Why typed reading refused a value: collected from the inside out, so that it ends up with the full key path and the
//! place of the innermost value that is known.
use std::{fmt, path::Path};

use serde::de::{self, Expected, Unexpected};

use super::{ConfigError, tree::Origin};

/// Most known keys listed in a message.
const LISTED_MAX: usize = 40;

/// A refusal on its way out.
#[derive(Debug)]
pub(super) struct Refusal {
    why: Why,
    /// Innermost first.
    path: Vec<Step>,
    origin: Option<Origin>,
}

#[derive(Debug)]
enum Why {
    Message(String),
    UnknownKey { key: String, known: &'static [&'static str] },
    MissingKey(&'static str),
}

#[derive(Debug)]
enum Step {
    Key(String),
    Item(usize),
}

impl Refusal {
    fn new(why: Why) -> Self {
        Self { why, path: Vec::new(), origin: None }
    }

    /// Came out of the value of this key.
    pub(super) fn under(self, key: &str, origin: &Origin) -> Self {
        self.step(Step::Key(key.to_owned()), origin)
    }

    /// Came out of this item.
    pub(super) fn at_item(self, index: usize, origin: &Origin) -> Self {
        self.step(Step::Item(index), origin)
    }

    /// The key itself was refused; its name is in the refusal already.
    pub(super) fn at_key(mut self, key: &str, origin: &Origin) -> Self {
        if !matches!(self.why, Why::UnknownKey { .. }) {
            self.path.push(Step::Key(key.to_owned()));
        }
        self.origin.get_or_insert_with(|| origin.clone());
        self
    }

    /// Sets the place, unless a more precise one is known.
    pub(super) fn located(mut self, origin: &Origin) -> Self {
        self.origin.get_or_insert_with(|| origin.clone());
        self
    }

    /// The key that was not known, when nobody has said where it is: types that buffer their input cannot.
    pub(super) fn unlocated_key(&self) -> Option<&str> {
        match (&self.why, &self.origin) {
            (Why::UnknownKey { key, .. }, None) => Some(key),
            _ => None,
        }
    }

    /// The whole message. `also` are keys known at the root that its type does not name.
    pub(super) fn into_error(self, path: &Path, also: &[&'static str]) -> ConfigError {
        let mut steps = String::new();
        for step in self.path.iter().rev() {
            match step {
                Step::Key(key) if steps.is_empty() => steps.push_str(key),
                Step::Key(key) => steps = format!("{steps}.{key}"),
                Step::Item(index) => steps = format!("{steps}[{index}]"),
            }
        }
        let dotted = |key: &str| if steps.is_empty() { key.to_owned() } else { format!("{steps}.{key}") };
        let said = match self.why {
            Why::UnknownKey { key, known } => {
                let mut known = known.to_vec();
                if self.path.is_empty() {
                    known.extend(also);
                }
                format!("{}: unknown key{}", dotted(&key), suggestion(&key, &known))
            }
            Why::MissingKey(key) => format!("{}: this key is missing", dotted(key)),
            Why::Message(why) if steps.is_empty() => why,
            Why::Message(why) => format!("{steps}: {why}"),
        };
        let place = self.origin.map_or_else(|| path.display().to_string(), |origin| origin.place(path));
        ConfigError::Parse { message: format!("{place}: {said}") }
    }

    fn step(mut self, step: Step, origin: &Origin) -> Self {
        self.path.push(step);
        self.located(origin)
    }
}

/// `; did you mean …? (known: …)`
fn suggestion(given: &str, known: &[&str]) -> String {
    let nearest = nearest(given, known).map(|name| format!("; did you mean `{name}`?"));
    let mut listed = known.iter().take(LISTED_MAX).copied().collect::<Vec<_>>().join(", ");
    if known.len() > LISTED_MAX {
        listed.push_str(", …");
    }
    let listed = if listed.is_empty() { "; none is known here".to_owned() } else { format!(" (known: {listed})") };
    nearest.unwrap_or_default() + &listed
}

/// The known name with the fewest edits, if fewer than half of the letters must change.
fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    // A text this long is no misspelt key, and measuring it would cost its square.
    if given.len() > 64 {
        return None;
    }
    let measured = known.iter().map(|name| (strsim::damerau_levenshtein(given, name), *name));
    let near = measured.filter(|(distance, name)| *distance <= given.len().max(name.len()) / 2);
    near.min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::Message(why) => f.write_str(why),
            Why::UnknownKey { key, .. } => write!(f, "unknown key {key}"),
            Why::MissingKey(key) => write!(f, "missing key {key}"),
        }
    }
}

impl std::error::Error for Refusal {}

impl de::Error for Refusal {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Why::Message(message.to_string()))
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("expected {}, found {}", wanted(expected), shown(unexpected)))
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("expected {}, found {}", wanted(expected), shown(unexpected)))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        // Quoted only when it is close to a known word: else it could be a secret in the wrong place.
        match nearest(variant, expected) {
            Some(_) => Self::custom(format_args!("`{variant}` is not known here{}", suggestion(variant, expected))),
            None => Self::custom(format_args!("expected one of {}", expected.join(", "))),
        }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::new(Why::UnknownKey { key: field.to_owned(), known: expected })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(Why::MissingKey(field))
    }
}

/// What the type wants, without the names of our types.
fn wanted(expected: &dyn Expected) -> String {
    let expected = expected.to_string();
    match expected.split(' ').next() {
        Some("struct") => "a map".to_owned(),
        Some("tuple") => "a list".to_owned(),
        _ if expected == "a sequence" => "a list".to_owned(),
        _ if expected == "a string" => "a text".to_owned(),
        _ => expected,
    }
}

/// Kinds, and the values of what cannot be a secret.
fn shown(unexpected: Unexpected<'_>) -> String {
    match unexpected {
        Unexpected::Bool(value) => format!("`{value}`"),
        Unexpected::Unsigned(value) => format!("the number {value}"),
        Unexpected::Signed(value) => format!("the number {value}"),
        Unexpected::Float(value) => format!("the number {value}"),
        Unexpected::Str(_) | Unexpected::Char(_) | Unexpected::Bytes(_) => "a text".to_owned(),
        Unexpected::Unit | Unexpected::Option => "nothing".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a map".to_owned(),
        other => other.to_string(),
    }
}
