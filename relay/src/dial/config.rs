//! `proxy:` in `listener.yaml` and `connector.yaml`.
use std::{borrow::Cow, fmt};

use daemon::config::SecretRef;
use identity::tls::Trust;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

const WORDS: &str = "write `from_environment`, `none`, or a section with `url`";

/// How connections to relays and gateways leave: `from_environment`, `none`, or one proxy.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum ProxyConfig {
    /// As `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` say.
    #[default]
    FromEnvironment,
    /// Straight, whatever the environment says.
    None,
    /// Through this one.
    Settings(Box<ProxySettings>),
}

/// One proxy: `{ url: http://proxy:3128, user: …, password: { file: … } }`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxySettings {
    /// `http://host[:port]`, or `https://host[:port]` for TLS with the proxy itself; default port 80 or 443. User and
    /// password stand in keys of their own.
    pub url: String,
    /// User for Basic authentication; default none.
    #[serde(default)]
    pub user: Option<String>,
    /// Its password; read again for each connection.
    #[serde(default)]
    pub password: Option<SecretRef>,
    /// Destinations that are reached without the proxy, as in the variable `NO_PROXY`: names with all names below them,
    /// addresses, CIDR ranges, each with or without `:port`, or `*`; default none. Loopback never goes through a proxy.
    #[serde(default)]
    pub no_proxy: Vec<String>,
    /// Who may vouch for an `https://` proxy; default as for relays, the program's own `trust`.
    #[serde(default)]
    pub trust: Option<Trust>,
}

impl<'de> Deserialize<'de> for ProxyConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WordOrSection)
    }
}

struct WordOrSection;

impl<'de> Visitor<'de> for WordOrSection {
    type Value = ProxyConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`from_environment`, `none`, or a section with `url`")
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<ProxyConfig, E> {
        match word {
            "from_environment" => Ok(ProxyConfig::FromEnvironment),
            "none" => Ok(ProxyConfig::None),
            // Not repeated: it may be a URL with a password in it.
            _ => Err(E::custom(WORDS)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ProxyConfig, A::Error> {
        ProxySettings::deserialize(MapAccessDeserializer::new(map)).map(Box::new).map(ProxyConfig::Settings)
    }
}

impl JsonSchema for ProxyConfig {
    fn schema_name() -> Cow<'static, str> {
        "ProxyConfig".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let settings = generator.subschema_for::<ProxySettings>();
        json_schema!({
            "anyOf": [
                { "const": "from_environment", "description": "as `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` say." },
                { "const": "none", "description": "straight, whatever the environment says." },
                settings,
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use daemon::config::{Validate, parse};

    use super::*;

    #[derive(Debug, Deserialize)]
    struct File {
        #[serde(default)]
        proxy: ProxyConfig,
    }

    impl Validate for File {}

    fn read(text: &str) -> Result<ProxyConfig, String> {
        parse::<File>(text, Path::new("f.yaml")).map(|file| file.proxy).map_err(|error| error.to_string())
    }

    #[test]
    fn the_environment_is_followed_unless_the_file_says_otherwise() {
        assert!(matches!(read("{}"), Ok(ProxyConfig::FromEnvironment)));
        assert!(matches!(read("proxy: from_environment"), Ok(ProxyConfig::FromEnvironment)));
        assert!(matches!(read("proxy: none"), Ok(ProxyConfig::None)));
        assert!(matches!(read("proxy: { url: 'http://proxy:3128' }"), Ok(ProxyConfig::Settings(_))));
    }

    #[test]
    fn an_unknown_word_or_key_is_refused_and_a_url_in_the_wrong_place_not_repeated() {
        let error = read("proxy: 'http://user:hunter2@proxy'").unwrap_err();
        assert!(error.contains("section with `url`") && !error.contains("hunter2"), "{error}");
        let error = read("proxy: { url: 'http://proxy', pasword: { env: X } }").unwrap_err();
        assert!(error.contains("pasword") && error.contains("password"), "{error}");
        assert!(
            read("proxy: { url: 'http://proxy', password: hunter2 }").is_err_and(|error| !error.contains("hunter2"))
        );
    }
}
