//! Join strings: one text that says where a hybrid connection is and proves who may use it, in the form that Azure shows
//! as a connection string and its SDKs read:
//! `Endpoint=sb://host[:port]/;SharedAccessKeyName=…;SharedAccessKey=…;EntityPath=…`.
//!
//! Keys are compared without case and each stands once; a key that means nothing here is an error, because it meant
//! something to whoever wrote it. No error repeats a value.
use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use daemon::config::{ConfigError, SecretRef};
use identity::secret::Secret;

use super::{Address, AddressError};

/// Longest name of an unknown key that is repeated. What is longer is no misspelt key.
const KEY_SHOWN: usize = 40;

/// What a join string holds.
#[derive(Debug)]
pub struct Join {
    /// Where.
    pub address: Address,
    /// As whom.
    pub login: JoinLogin,
}

/// How a join string proves who we are.
#[derive(Debug)]
pub enum JoinLogin {
    /// A rule's name and key, to mint tokens from.
    Key {
        /// Rule name.
        rule: String,
        /// Its key.
        key: Secret,
    },
    /// A token that somebody else minted.
    Signature {
        /// The token.
        token: Secret,
        /// When it ends.
        expires: SystemTime,
    },
}

/// What is wrong with a join string. Each text continues a sentence that names where the string came from.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// A part is no `key=value`, or there is no `Endpoint`.
    #[error(
        "holds no join string; it looks like Endpoint=sb://host/;SharedAccessKeyName=…;SharedAccessKey=…;EntityPath=…"
    )]
    Malformed,
    /// A key that is not known here.
    #[error(
        "holds the key {0}, which means nothing here; known are Endpoint, EntityPath, SharedAccessKeyName, SharedAccessKey and SharedAccessSignature"
    )]
    UnknownKey(String),
    /// A key stands twice.
    #[error("holds {0} twice")]
    Doubled(&'static str),
    /// A key is missing or empty.
    #[error("holds no {0}")]
    Missing(&'static str),
    /// No hybrid connection is named.
    #[error("holds no EntityPath: take the string of the hybrid connection, not that of its namespace")]
    NoEntity,
    /// `Endpoint` and `EntityPath` make no address.
    #[error("names an Endpoint and EntityPath that together are no address of a hybrid connection")]
    Address(#[source] AddressError),
    /// Both a key and a signature.
    #[error("holds both a SharedAccessSignature and a SharedAccessKey; one of them is to go")]
    TwoLogins,
    /// The signature has no readable end.
    #[error("holds a SharedAccessSignature without a readable end (se)")]
    Signature,
    /// `Authentication=…`.
    #[error(
        "asks for Authentication by an identity; write `url` and `credential: {{ entra: {{ source: … }} }}` in place of `join`"
    )]
    Identity,
}

#[derive(Default)]
struct Parts<'a> {
    endpoint: Option<&'a str>,
    entity: Option<&'a str>,
    rule: Option<&'a str>,
    key: Option<&'a str>,
    signature: Option<&'a str>,
}

impl Join {
    /// Reads a join string.
    pub fn parse(text: &str) -> Result<Self, JoinError> {
        let parts = Parts::read(text)?;
        let endpoint = parts.endpoint.ok_or(JoinError::Malformed)?.trim_end_matches('/');
        // Behind scheme and host nothing may stand, or a path would silently become part of the entity.
        if endpoint.split_once("://").is_some_and(|(_, rest)| rest.contains(['/', '?', '#'])) {
            return Err(JoinError::Address(AddressError::Malformed));
        }
        let entity = parts.entity.ok_or(JoinError::NoEntity)?;
        let address = format!("{endpoint}/{entity}").parse().map_err(JoinError::Address)?;
        Ok(Self { address, login: parts.login()? })
    }
}

impl<'a> Parts<'a> {
    fn read(text: &'a str) -> Result<Self, JoinError> {
        let mut parts = Self::default();
        let pairs = text.split(';').map(str::trim).filter(|part| !part.is_empty());
        let pairs = pairs.map(|part| part.split_once('=').map(|(key, value)| (key.trim(), value.trim())));
        let pairs: Vec<_> = pairs.collect::<Option<_>>().ok_or(JoinError::Malformed)?;
        // Without it this is some other text, perhaps a bare key, and nothing of it may be repeated.
        if !pairs.iter().any(|(key, _)| key.eq_ignore_ascii_case("Endpoint")) {
            return Err(JoinError::Malformed);
        }
        for (key, value) in pairs {
            let (name, slot) = match key.to_ascii_lowercase().as_str() {
                "endpoint" => ("Endpoint", &mut parts.endpoint),
                "entitypath" => ("EntityPath", &mut parts.entity),
                "sharedaccesskeyname" => ("SharedAccessKeyName", &mut parts.rule),
                "sharedaccesskey" => ("SharedAccessKey", &mut parts.key),
                "sharedaccesssignature" => ("SharedAccessSignature", &mut parts.signature),
                "authentication" => return Err(JoinError::Identity),
                _ => return Err(JoinError::UnknownKey(shown(key))),
            };
            if value.is_empty() {
                return Err(JoinError::Missing(name));
            }
            if slot.replace(value).is_some() {
                return Err(JoinError::Doubled(name));
            }
        }
        Ok(parts)
    }

    fn login(&self) -> Result<JoinLogin, JoinError> {
        match (self.rule, self.key, self.signature) {
            (_, Some(_), Some(_)) => Err(JoinError::TwoLogins),
            // A rule's name beside a signature says what stands in it anyway.
            (_, None, Some(token)) => {
                let expires = end_of(token).ok_or(JoinError::Signature)?;
                Ok(JoinLogin::Signature { token: Secret::new(token), expires })
            }
            (Some(rule), Some(key), None) => Ok(JoinLogin::Key { rule: rule.to_owned(), key: Secret::new(key) }),
            (None, _, None) => Err(JoinError::Missing("SharedAccessKeyName")),
            (Some(_), None, None) => Err(JoinError::Missing("SharedAccessKey")),
        }
    }
}

/// A key's name, where it can be nothing else.
fn shown(key: &str) -> String {
    let is_name = (1..=KEY_SHOWN).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_alphabetic());
    if is_name { format!("`{key}`") } else { "(not shown)".to_owned() }
}

/// The end of a shared access signature: `se`, in seconds since 1970.
fn end_of(token: &str) -> Option<SystemTime> {
    let (_, fields) = token.split_once(' ')?;
    let seconds = fields.split('&').find_map(|field| field.strip_prefix("se="))?;
    // Ten digits last until 2286 and keep every later sum inside `SystemTime`.
    let is_number = (1..=10).contains(&seconds.len()) && seconds.bytes().all(|byte| byte.is_ascii_digit());
    Some(UNIX_EPOCH + Duration::from_secs(seconds.parse().ok().filter(|_| is_number)?))
}

/// Where a join string is kept. It is read anew for each token, so that a rotated key needs no restart.
#[derive(Debug, Clone)]
pub struct JoinFile {
    reference: SecretRef,
    base: PathBuf,
}

impl JoinFile {
    /// As a file or a variable; relative paths are below `base`.
    pub fn new(reference: SecretRef, base: &Path) -> Self {
        Self { reference, base: base.to_owned() }
    }

    /// Reads it now.
    pub fn read(&self) -> Result<Join, ConfigError> {
        let text = Secret::from(self.reference.read(&self.base)?);
        Join::parse(text.expose()).map_err(|error| ConfigError::Secret {
            reference: self.reference.to_string(),
            message: match &error {
                JoinError::Address(why) => format!("{error}: it {why}"),
                _ => error.to_string(),
            },
        })
    }

    /// Reads it again, for a token for `address`. A file that names another place now is of no use until a restart.
    pub(super) fn read_for(&self, address: &Address) -> Result<JoinLogin, ConfigError> {
        let join = self.read()?;
        if join.address != *address {
            return Err(ConfigError::Secret {
                reference: self.reference.to_string(),
                message: "names another hybrid connection than when this program started; restart it".to_owned(),
            });
        }
        Ok(join.login)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WHOLE: &str =
        "Endpoint=sb://ns.example.com:8443/;SharedAccessKeyName=send;SharedAccessKey=c2VjcmV0c2VjcmV0==;EntityPath=a/b";

    fn error(text: &str) -> JoinError {
        Join::parse(text).unwrap_err()
    }

    #[test]
    fn a_connection_string_as_azure_shows_it_is_read() {
        let join = Join::parse(WHOLE).unwrap();
        assert_eq!(join.address.to_string(), "sb://ns.example.com:8443/a/b");
        let JoinLogin::Key { rule, key } = join.login else { panic!("{:?}", join.login) };
        assert_eq!((rule.as_str(), key.expose()), ("send", "c2VjcmV0c2VjcmV0=="));
    }

    #[test]
    fn case_order_blanks_and_a_last_semicolon_mean_nothing() {
        let text = " entitypath = e ;ENDPOINT=sb://ns.example.com; sharedaccesskeyname=r;;SharedAccesskey=k;\n";
        assert_eq!(Join::parse(text).unwrap().address.to_string(), "sb://ns.example.com/e");
    }

    #[test]
    fn a_signature_takes_the_place_of_a_key_and_tells_its_end() {
        let token = "SharedAccessSignature sr=http%3a%2f%2fns%2fe&sig=x%3d&se=2000000000&skn=r";
        let join = Join::parse(&format!("Endpoint=sb://ns/;EntityPath=e;SharedAccessSignature={token}")).unwrap();
        let JoinLogin::Signature { token: found, expires } = join.login else { panic!("{:?}", join.login) };
        assert_eq!((found.expose(), expires), (token, UNIX_EPOCH + Duration::from_secs(2_000_000_000)));
        for se in ["", "se=", "se=x", "se=+5", "se=99999999999"] {
            let text = format!("Endpoint=sb://ns/;EntityPath=e;SharedAccessSignature=SharedAccessSignature sr=x&{se}");
            assert_eq!(error(&text), JoinError::Signature, "{se}");
        }
    }

    #[test]
    fn what_is_missing_doubled_or_unknown_is_named() {
        for (text, expected) in [
            ("", JoinError::Malformed),
            ("c2VjcmV0c2VjcmV0==", JoinError::Malformed),
            ("sb://ns/e", JoinError::Malformed),
            ("Endpoint=;EntityPath=e", JoinError::Missing("Endpoint")),
            ("Endpoint=sb://ns/", JoinError::NoEntity),
            ("Endpoint=sb://ns/;EntityPath=e", JoinError::Missing("SharedAccessKeyName")),
            ("Endpoint=sb://ns/;EntityPath=e;SharedAccessKeyName=r", JoinError::Missing("SharedAccessKey")),
            ("Endpoint=sb://ns/;endpoint=sb://ns2/;EntityPath=e", JoinError::Doubled("Endpoint")),
            ("Endpoint=sb://ns/;OperationTimeout=5", JoinError::UnknownKey("`OperationTimeout`".to_owned())),
            ("Endpoint=sb://ns/;c2VjcmV0c2VjcmV0=x", JoinError::UnknownKey("(not shown)".to_owned())),
            ("Endpoint=sb://ns/;EntityPath=e;Authentication=Managed Identity", JoinError::Identity),
            (
                "Endpoint=sb://ns/;EntityPath=e;SharedAccessKey=k;SharedAccessSignature=SharedAccessSignature se=1",
                JoinError::TwoLogins,
            ),
            ("Endpoint=sb://ns/x;EntityPath=e", JoinError::Address(AddressError::Malformed)),
            ("Endpoint=sb://ns?x;EntityPath=e", JoinError::Address(AddressError::Malformed)),
            ("Endpoint=ws://ns.example.com/;EntityPath=e", JoinError::Address(AddressError::Plain)),
            ("Endpoint=https://ns/;EntityPath=e", JoinError::Address(AddressError::Scheme)),
            ("Endpoint=sb://ns/;EntityPath=a/../b", JoinError::Address(AddressError::Malformed)),
        ] {
            assert_eq!(error(text), expected, "{text}");
        }
    }

    #[test]
    fn an_identity_is_refused_with_what_to_write_instead() {
        let said = error("Endpoint=sb://ns/;EntityPath=e;Authentication=Managed Identity").to_string();
        assert!(said.contains("credential: { entra: { source: … } }"), "{said}");
    }

    #[test]
    fn a_file_that_names_another_place_later_is_refused_and_a_new_key_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = |text: &str| std::fs::write(folder.path().join("join"), text).unwrap();
        write(WHOLE);
        let file = JoinFile::new(SecretRef::FileReadableByOthers("join".into()), folder.path());
        let address = file.read().unwrap().address;
        write(&WHOLE.replace("c2Vj", "new"));
        let JoinLogin::Key { key, .. } = file.read_for(&address).unwrap() else { panic!("a key was written") };
        assert!(key.expose().starts_with("new"));
        write(&WHOLE.replace("a/b", "a/c"));
        assert!(file.read_for(&address).unwrap_err().to_string().contains("another hybrid connection"));
        write("Endpoint=sb://ns/;SharedAccessKey=hunter2");
        let said = file.read().unwrap_err().to_string();
        assert!(said.contains("EntityPath") && !said.contains("hunter2"), "{said}");
    }

    proptest! {
        #[test]
        fn no_text_is_repeated_by_an_error(value in "[a-z]{4}[0-9]{6}[ -~]{0,20}") {
            for text in [
                value.clone(),
                format!("Endpoint=sb://ns/;EntityPath=e;SharedAccessKey={value}"),
                format!("Endpoint={value};EntityPath=e;SharedAccessKeyName=r;SharedAccessKey=k"),
                format!("Endpoint=sb://ns/;{value}"),
            ] {
                if let Err(error) = Join::parse(&text) {
                    prop_assert!(!format!("{error} {error:?}").contains(&value[..10]), "{error}");
                }
            }
        }
    }
}
