//! The tree into typed structures. A plain scalar becomes what is asked for, so that `0123` can be a name; only where
//! the type does not say (`deserialize_any`) does YAML's core schema decide. Errors are [`Refusal`]s with their place.
use serde::{
    Deserializer,
    de::{
        DeserializeOwned, DeserializeSeed, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
        VariantAccess, Visitor, value::StrDeserializer,
    },
    forward_to_deserialize_any,
};

use super::{
    refusal::Refusal,
    scalar::{Meaning, is_null},
    tree::{Entry, Node, Origin, Value},
};

/// Reads the whole tree.
pub(super) fn typed<T: DeserializeOwned>(tree: &Node) -> Result<T, Refusal> {
    T::deserialize(Reading(tree)).map_err(|refusal| locate(refusal, tree))
}

#[derive(Clone, Copy)]
struct Reading<'a>(&'a Node);

/// Types that buffer (tagged, untagged and flattened ones) refuse a key without its place: look for it beneath.
fn locate(refusal: Refusal, node: &Node) -> Refusal {
    let found = refusal.unlocated_key().and_then(|key| find(node, key)).cloned();
    refusal.located(found.as_ref().unwrap_or(&node.origin))
}

fn find<'a>(node: &'a Node, key: &str) -> Option<&'a Origin> {
    match &node.value {
        Value::Scalar { .. } => None,
        Value::List(items) => items.iter().find_map(|item| find(item, key)),
        Value::Map(entries) => {
            let here = entries.iter().find(|entry| entry.key == key).map(|entry| &entry.origin);
            here.or_else(|| entries.iter().find_map(|entry| find(&entry.node, key)))
        }
    }
}

impl<'a> Reading<'a> {
    fn scalar(self) -> Option<(&'a str, bool)> {
        match &self.0.value {
            Value::Scalar { text, plain } => Some((text, *plain)),
            Value::List(_) | Value::Map(_) => None,
        }
    }

    fn unexpected(self) -> Unexpected<'a> {
        match &self.0.value {
            Value::List(_) => Unexpected::Seq,
            Value::Map(_) => Unexpected::Map,
            Value::Scalar { plain: true, text } if is_null(text) => Unexpected::Unit,
            Value::Scalar { plain: true, text } => match Meaning::of(text) {
                Meaning::Bool(value) => Unexpected::Bool(value),
                Meaning::Unsigned(value) => Unexpected::Unsigned(value),
                Meaning::Signed(value) => Unexpected::Signed(value),
                Meaning::Float(value) => Unexpected::Float(value),
                Meaning::Text => Unexpected::Str(text),
            },
            Value::Scalar { text, .. } => Unexpected::Str(text),
        }
    }

    fn number<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        if let Some((text, true)) = self.scalar() {
            match Meaning::of(text) {
                Meaning::Unsigned(value) => return visitor.visit_u64(value),
                Meaning::Signed(value) => return visitor.visit_i64(value),
                Meaning::Float(value) => return visitor.visit_f64(value),
                Meaning::Bool(_) | Meaning::Text => {}
            }
        }
        Err(Refusal::invalid_type(self.unexpected(), &visitor))
    }

    fn text<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.scalar() {
            Some((text, plain)) if !(plain && is_null(text)) => visitor.visit_borrowed_str(text),
            _ => Err(Refusal::invalid_type(self.unexpected(), &visitor)),
        }
    }
}

impl<'a> Deserializer<'a> for Reading<'a> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match &self.0.value {
            Value::List(items) => visitor.visit_seq(Items { items: items.iter().enumerate() }),
            Value::Map(entries) => visitor.visit_map(Entries { entries: entries.iter(), value: None }),
            Value::Scalar { text, plain: false } => visitor.visit_borrowed_str(text),
            Value::Scalar { text, plain: true } if is_null(text) => visitor.visit_unit(),
            Value::Scalar { text, plain: true } => match Meaning::of(text) {
                Meaning::Bool(value) => visitor.visit_bool(value),
                Meaning::Unsigned(value) => visitor.visit_u64(value),
                Meaning::Signed(value) => visitor.visit_i64(value),
                Meaning::Float(value) => visitor.visit_f64(value),
                Meaning::Text => visitor.visit_borrowed_str(text),
            },
        }
        .map_err(|refusal| locate(refusal, self.0))
    }

    fn deserialize_bool<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.scalar() {
            Some((text, true)) => match Meaning::of(text) {
                Meaning::Bool(value) => visitor.visit_bool(value),
                _ => Err(Refusal::custom("expected true or false")),
            },
            _ => Err(Refusal::invalid_type(self.unexpected(), &visitor)),
        }
    }

    fn deserialize_i8<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.number(visitor)
    }
    fn deserialize_i16<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.number(visitor)
    }
    fn deserialize_i32<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.number(visitor)
    }
    fn deserialize_i64<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.number(visitor)
    }
    fn deserialize_u8<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.number(visitor)
    }
    fn deserialize_u16<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.number(visitor)
    }
    fn deserialize_u32<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.number(visitor)
    }
    fn deserialize_u64<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.number(visitor)
    }
    fn deserialize_f32<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.number(visitor)
    }
    fn deserialize_f64<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.number(visitor)
    }

    fn deserialize_char<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.text(visitor)
    }
    fn deserialize_str<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.text(visitor)
    }
    fn deserialize_string<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.text(visitor)
    }
    fn deserialize_identifier<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.text(visitor)
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refusal> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(self, _: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'a>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        let chosen = match &self.0.value {
            Value::Scalar { text, plain } if !(*plain && is_null(text)) => {
                Chosen { variant: text, origin: &self.0.origin, content: None }
            }
            Value::Map(entries) if entries.len() == 1 => {
                let Entry { key, origin, node } = &entries[0];
                Chosen { variant: key, origin, content: Some(node) }
            }
            _ => return Err(Refusal::custom(format_args!("expected exactly one of {}", known.join(", ")))),
        };
        visitor.visit_enum(chosen).map_err(|refusal| locate(refusal, self.0))
    }

    /// Only a map: typed structures would take a list, too, by position.
    fn deserialize_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        match &self.0.value {
            Value::Map(_) => self.deserialize_any(visitor),
            _ => Err(Refusal::invalid_type(self.unexpected(), &visitor)),
        }
    }

    forward_to_deserialize_any! {
        <V: Visitor<'a>>
        i128 u128 bytes byte_buf unit unit_struct seq tuple tuple_struct map ignored_any
    }
}

struct Items<'a> {
    items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
}

impl<'a> SeqAccess<'a> for Items<'a> {
    type Error = Refusal;

    fn next_element_seed<T: DeserializeSeed<'a>>(&mut self, seed: T) -> Result<Option<T::Value>, Refusal> {
        let Some((index, item)) = self.items.next() else { return Ok(None) };
        seed.deserialize(Reading(item)).map(Some).map_err(|refusal| refusal.at_item(index, &item.origin))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Entries<'a> {
    entries: std::slice::Iter<'a, Entry>,
    value: Option<&'a Entry>,
}

impl<'a> MapAccess<'a> for Entries<'a> {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'a>>(&mut self, seed: K) -> Result<Option<K::Value>, Refusal> {
        let Some(entry) = self.entries.next() else { return Ok(None) };
        self.value = Some(entry);
        let key: StrDeserializer<'_, Refusal> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|refusal| refusal.at_key(&entry.key, &entry.origin))
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value, Refusal> {
        let entry = self.value.take().ok_or_else(|| Refusal::custom("a value was asked for before its key"))?;
        let refused = |refusal: Refusal| locate(refusal, &entry.node).under(&entry.key, &entry.origin);
        seed.deserialize(Reading(&entry.node)).map_err(refused)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

/// One variant of an enum: a bare word, or a map of one key.
struct Chosen<'a> {
    variant: &'a str,
    origin: &'a Origin,
    content: Option<&'a Node>,
}

impl<'a> EnumAccess<'a> for Chosen<'a> {
    type Error = Refusal;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'a>>(self, seed: V) -> Result<(V::Value, Self), Refusal> {
        let variant: StrDeserializer<'_, Refusal> = self.variant.into_deserializer();
        let value = seed.deserialize(variant).map_err(|refusal| refusal.located(self.origin))?;
        Ok((value, self))
    }
}

impl<'a> Chosen<'a> {
    fn content<T>(&self, read: impl FnOnce(Reading<'a>) -> Result<T, Refusal>) -> Result<T, Refusal> {
        let Some(node) = self.content else {
            let variant = self.variant;
            return Err(Refusal::custom(format_args!("`{variant}` needs a value: write `{variant}: …`")));
        };
        read(Reading(node)).map_err(|refusal| locate(refusal, node).under(self.variant, self.origin))
    }
}

impl<'a> VariantAccess<'a> for Chosen<'a> {
    type Error = Refusal;

    fn unit_variant(self) -> Result<(), Refusal> {
        match self.content {
            Some(node) if !node.is_null() => {
                Err(Refusal::custom(format_args!("`{}` takes no value", self.variant)).located(&node.origin))
            }
            _ => Ok(()),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'a>>(self, seed: T) -> Result<T::Value, Refusal> {
        self.content(|reading| seed.deserialize(reading))
    }

    fn tuple_variant<V: Visitor<'a>>(self, _: usize, visitor: V) -> Result<V::Value, Refusal> {
        self.content(|reading| reading.deserialize_any(visitor))
    }

    fn struct_variant<V: Visitor<'a>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Refusal> {
        self.content(|reading| reading.deserialize_struct("", fields, visitor))
    }
}
