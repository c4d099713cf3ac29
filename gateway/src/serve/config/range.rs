//! Address ranges as they stand in a config file: `10.42.0.0/16`, or one address.

use std::{net::IpAddr, str::FromStr};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

/// One range, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range(IpNet);

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(IpNet::from(address)));
        }
        let net: IpNet = text.parse().map_err(|_| format!("\"{text}\" is not a range such as 10.42.0.0/16"))?;
        if net.trunc() == net {
            Ok(Self(net))
        } else {
            Err(format!("\"{text}\" has bits beyond its prefix; write {}", net.trunc()))
        }
    }
}

/// Several ranges; in a file one text or a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range>);

impl Ranges {
    /// Whether an address is in one of them. IPv4-mapped IPv6 is the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|range| range.0.contains(&address))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Ranges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Ranges;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a range such as 10.42.0.0/16, or a list of ranges")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Ranges, E> {
                text.parse().map(|range| Ranges(vec![range])).map_err(E::custom)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Ranges, A::Error> {
                let mut ranges = Vec::new();
                while let Some(text) = items.next_element::<String>()? {
                    ranges.push(text.parse().map_err(de::Error::custom)?);
                }
                Ok(Ranges(ranges))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Ranges {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Ranges".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }],
            "description": "10.42.0.0/16, or a list of such"
        })
    }
}
