//! Header fields as a JSON object of texts, in the order and with the spelling in which they came.
//!
//! Values that are not texts are made into texts, and an array into several fields of one name, because listeners
//! written by hand send both. There is no way to fail that would lose the rest of the message.
use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::Value;

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
                let mut fields = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    match value {
                        Value::Null => {}
                        Value::Array(values) => {
                            fields.extend(values.into_iter().map(|value| (name.clone(), text_of(value))));
                        }
                        value => fields.push((name, text_of(value))),
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
