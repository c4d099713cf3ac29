//! Header fields as a JSON object of texts, in the order and with the spelling in which they came.
//!
//! Values that are not texts are made into texts, and an array into several fields of one name, because listeners
//! written by hand send both. The one way to fail is an array that would make far more of a message than it is.
use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::Value;

use super::TEXT_MAX;

/// Most bytes of names and values that are read: twice the largest message. An array repeats its name for each value, so a
/// message could otherwise stand for ten thousand times its size; fields that really come in several are short.
pub(super) const READ_MAX: usize = 2 * TEXT_MAX;

/// Name and value pairs.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The first value of a name, compared without regard to case.
    pub fn find(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Adds a field; one of the same name takes the value on behind a separator, since a JSON object has each name once.
    pub fn join(&mut self, name: &str, value: &str) {
        let separator = if name.eq_ignore_ascii_case("cookie") { "; " } else { ", " };
        match self.0.iter_mut().find(|(key, _)| key.eq_ignore_ascii_case(name)) {
            Some((_, known)) => {
                known.push_str(separator);
                known.push_str(value);
            }
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }
}

/// Names and lengths: values can be credentials of the application.
impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(name, value)| (name, value.len()))).finish()
    }
}

/// Several fields of one name become an array, which SDKs do not understand: [`Headers::join`] avoids it.
impl Serialize for Headers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (at, (name, value)) in self.0.iter().enumerate() {
            let same = |(other, _): &&(String, String)| other.eq_ignore_ascii_case(name);
            if self.0[..at].iter().any(|field| same(&field)) {
                continue;
            }
            if self.0[at + 1..].iter().any(|field| same(&field)) {
                let values: Vec<&str> = self.0[at..].iter().filter(same).map(|(_, value)| value.as_str()).collect();
                map.serialize_entry(name, &values)?;
            } else {
                map.serialize_entry(name, value)?;
            }
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Headers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of header fields")
            }

            fn visit_unit<E>(self) -> Result<Headers, E> {
                Ok(Headers::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let (mut fields, mut room) = (Vec::new(), READ_MAX);
                let mut field = |name: &str, value: Value| {
                    let value = text_of(value);
                    let left = room.checked_sub(name.len() + value.len());
                    room = left.ok_or_else(|| A::Error::custom("header fields are larger than READ_MAX"))?;
                    fields.push((name.to_owned(), value));
                    Ok(())
                };
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    match value {
                        Value::Null => {}
                        Value::Array(values) => {
                            values.into_iter().try_for_each(|value| field(&name, value))?;
                        }
                        value => field(&name, value)?,
                    }
                }
                Ok(Headers(fields))
            }
        }
        deserializer.deserialize_any(Fields)
    }
}

fn text_of(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}
