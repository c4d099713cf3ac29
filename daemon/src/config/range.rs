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

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(yaml: &str) -> Result<Ranges, String> {
        super::super::parse::<File>(yaml, std::path::Path::new("file")).map(|file| file.from).map_err(|e| e.to_string())
    }

    #[derive(Deserialize)]
    struct File {
        from: Ranges,
    }

    impl super::super::Validate for File {}

    #[test]
    fn one_range_and_a_list_are_taken_and_an_address_is_a_range() {
        let one = ranges("from: 10.42.0.0/16").unwrap();
        assert!(one.contains("10.42.255.255".parse().unwrap()));
        assert!(one.contains("::ffff:10.42.0.1".parse().unwrap()), "mapped IPv6 is the IPv4 address");
        assert!(!one.contains("10.43.0.0".parse().unwrap()));
        let list = ranges("from: [192.0.2.7, \"2001:db8::/32\"]").unwrap();
        assert!(list.contains("192.0.2.7".parse().unwrap()) && list.contains("2001:db8:1::".parse().unwrap()));
        assert!(!list.contains("192.0.2.8".parse().unwrap()));
        assert!(ranges("from: []").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_range_is_refused_with_what_to_write() {
        assert!(ranges("from: 10.42.0.1/16").unwrap_err().contains("write 10.42.0.0/16"));
        assert!(ranges("from: somewhere").unwrap_err().contains("not a range such as"));
        assert!(ranges("from: { a: b }").is_err());
    }
}
