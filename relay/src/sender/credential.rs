//! What proves to a relay who we are: a rule's key, read anew for each token, or a token source.
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use daemon::{
    clock::{SharedClock, SystemClock},
    config::{ConfigError, SecretRef},
    process::Context,
};
use identity::{
    sas::{self, Rights, Rule},
    secret::Secret,
    token::{Cache, SourceConfig, SourceKind, source},
};
use serde::Deserialize;

use super::{Address, DialError, JoinFile, JoinLogin};

/// Life of the shared access signatures that we mint: what the SDKs use, and short enough that a leaked one is soon
/// worth nothing.
pub const TOKEN_LIFE: Duration = Duration::from_secs(3600);

/// Audience of Azure Relay.
pub(crate) const AZURE_AUDIENCE: &str = "https://relay.azure.net";

/// What the names of Azure's own relays end in: in the public cloud, and in those of China and of US authorities.
const AZURE_HOSTS: [&str; 3] =
    [".servicebus.windows.net", ".servicebus.chinacloudapi.cn", ".servicebus.usgovcloudapi.net"];

/// `credential: { sas: { rule: …, key: { file: … } } }` or `{ entra: { source: … } }`, of a listener or a sender.
#[derive(Debug, Clone, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum CredentialConfig {
    /// Mint shared access signatures from a rule's key.
    Sas {
        /// Rule name.
        rule: String,
        /// Its key. A file is read anew for each token, so a rotated key needs no restart.
        key: SecretRef,
    },
    /// Ask a token source. Its `audience` is `https://relay.azure.net` by default where the relay is Azure's own
    /// (`servicebus.windows.net`, `servicebus.chinacloudapi.cn`, `servicebus.usgovcloudapi.net`). Any other relay could use
    /// a token for Azure there, so for it the audience that its authenticator expects must be written.
    Entra(Box<SourceConfig>),
}

/// A credential ready to mint tokens. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Credential {
    kind: Kind,
    clock: SharedClock,
}

#[derive(Debug, Clone)]
enum Kind {
    Rule { rule: String, key: Key },
    Signature { token: Secret, expires: SystemTime },
    Join(JoinFile),
    Source { cache: Cache, audience: String },
}

#[derive(Debug, Clone)]
enum Key {
    Known(Secret),
    Kept(SecretRef, PathBuf),
}

/// A token in hand.
#[derive(Debug, Clone)]
pub struct Minted {
    /// The token.
    pub secret: Secret,
    /// When it ends.
    pub expires: SystemTime,
}

/// Whether this host is one of Azure's.
pub(crate) fn is_azure(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    AZURE_HOSTS.iter().any(|suffix| host.ends_with(suffix))
}

/// What to ask a source for, when the token goes to this relay.
fn audience(config: &SourceConfig, address: &Address) -> Result<String, (&'static str, String)> {
    const KEY: &str = "credential.entra.audience";
    match &config.audience {
        Some(audience) if audience.is_empty() => Err((KEY, "is empty".to_owned())),
        Some(audience) => Ok(audience.clone()),
        // What is in a file is for whom it is for.
        None if is_azure(&address.host) || config.source == SourceKind::File => Ok(AZURE_AUDIENCE.to_owned()),
        None => Err((
            KEY,
            format!(
                "is missing: {} is not Azure's, and could use a token for Azure there; write the audience that its \
                 authenticator expects",
                address.host
            ),
        )),
    }
}

impl CredentialConfig {
    /// The first key that cannot be right for this relay, and why. Files are not read.
    pub fn check(&self, address: &Address) -> Result<(), (&'static str, String)> {
        match self {
            Self::Sas { .. } => Ok(()),
            Self::Entra(config) => audience(config, address).map(drop),
        }
    }

    /// Checks keys and starts caches. Tokens of a source are for the relay at `address`.
    pub fn open(&self, address: &Address, base: &Path, context: &Context) -> Result<Credential, ConfigError> {
        let invalid = |key: &str, message| ConfigError::Invalid { path: base.to_owned(), key: key.to_owned(), message };
        let kind = match self {
            Self::Sas { rule, key } => {
                let kept = Key::Kept(key.clone(), base.to_owned());
                check_strength(rule, &kept.read()?, base, "credential.sas")?;
                Kind::Rule { rule: rule.clone(), key: kept }
            }
            Self::Entra(config) => {
                let audience = audience(config, address).map_err(|(key, message)| invalid(key, message))?;
                let source = source(config, base).map_err(|error| invalid("credential.entra", error.to_string()))?;
                let cache = Cache::new(source, context.clock.clone(), context.shutdown.clone());
                Kind::Source { cache, audience }
            }
        };
        Ok(Credential { kind, clock: context.clock.clone() })
    }
}

impl Key {
    fn read(&self) -> Result<Secret, ConfigError> {
        match self {
            Self::Known(key) => Ok(key.clone()),
            Self::Kept(reference, base) => reference.read(base).map(Secret::from),
        }
    }
}

fn check_strength(rule: &str, key: &Secret, base: &Path, at: &str) -> Result<(), ConfigError> {
    let checked = Rule { name: rule.to_owned(), rights: Rights::default(), keys: vec![key.clone()] };
    checked.check_strength().map_err(|error| ConfigError::Invalid {
        path: base.to_owned(),
        key: at.to_owned(),
        message: error.to_string(),
    })
}

impl Credential {
    /// A rule's name and key, for programs that have both in hand.
    pub fn rule(name: impl Into<String>, key: Secret) -> Self {
        JoinLogin::Key { rule: name.into(), key }.into()
    }

    /// A join string that is kept in a file or variable: where it leads, and the credential in it.
    pub fn join(file: JoinFile, base: &Path, clock: SharedClock) -> Result<(Address, Self), ConfigError> {
        let join = file.read()?;
        if let JoinLogin::Key { rule, key } = &join.login {
            check_strength(rule, key, base, "join")?;
        }
        Ok((join.address, Self { kind: Kind::Join(file), clock }))
    }

    /// What a token source gives.
    #[cfg(test)]
    pub(crate) fn of_source(cache: Cache, clock: SharedClock) -> Self {
        Self { kind: Kind::Source { cache, audience: AZURE_AUDIENCE.to_owned() }, clock }
    }

    /// A token for the hybrid connection at `address`.
    pub async fn mint(&self, address: &Address) -> Result<Minted, DialError> {
        match &self.kind {
            Kind::Rule { rule, key } => Ok(self.sign(address, rule, &key.read().map_err(DialError::Key)?)),
            Kind::Signature { token, expires } => Ok(Minted { secret: token.clone(), expires: *expires }),
            Kind::Join(file) => match file.read_for(address).map_err(DialError::Key)? {
                JoinLogin::Key { rule, key } => Ok(self.sign(address, &rule, &key)),
                JoinLogin::Signature { token, expires } => Ok(Minted { secret: token, expires }),
            },
            Kind::Source { cache, audience } => {
                let token = cache.get(audience).await.map_err(DialError::Token)?;
                Ok(Minted { secret: token.secret, expires: token.expires })
            }
        }
    }

    /// A relay did not believe the last token. Keys are read anew for each token anyway; a source is asked for another.
    pub fn refused(&self) {
        if let Kind::Source { cache, audience } = &self.kind {
            cache.refused(audience);
        }
    }

    /// A token made at once from a rule's key, or a fixed one, for another hybrid connection of the same relay; to learn
    /// how far a credential of `address` goes. Tokens of an issuer do not say where they are good.
    pub(crate) fn mint_elsewhere(&self, address: &Address, elsewhere: &Address) -> Option<Minted> {
        let login = match &self.kind {
            Kind::Rule { rule, key } => JoinLogin::Key { rule: rule.clone(), key: key.read().ok()? },
            Kind::Signature { token, expires } => JoinLogin::Signature { token: token.clone(), expires: *expires },
            Kind::Join(file) => file.read_for(address).ok()?,
            Kind::Source { .. } => return None,
        };
        Some(match login {
            JoinLogin::Key { rule, key } => self.sign(elsewhere, &rule, &key),
            JoinLogin::Signature { token, expires } => Minted { secret: token, expires },
        })
    }

    /// Whether it is one token that nothing renews.
    pub(crate) fn is_fixed(&self, address: &Address) -> bool {
        match &self.kind {
            Kind::Rule { .. } | Kind::Source { .. } => false,
            Kind::Signature { .. } => true,
            Kind::Join(file) => matches!(file.read_for(address), Ok(JoinLogin::Signature { .. })),
        }
    }

    fn sign(&self, address: &Address, rule: &str, key: &Secret) -> Minted {
        let expires = self.clock.now() + TOKEN_LIFE;
        Minted { secret: sas::mint(&address.resource(), rule, key, expires), expires }
    }
}

/// On the system's clock.
impl From<JoinLogin> for Credential {
    fn from(login: JoinLogin) -> Self {
        let kind = match login {
            JoinLogin::Key { rule, key } => Kind::Rule { rule, key: Key::Known(key) },
            JoinLogin::Signature { token, expires } => Kind::Signature { token, expires },
        };
        Self { kind, clock: Arc::new(SystemClock) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(audience: Option<&str>) -> CredentialConfig {
        let text = serde_json::json!({ "entra": { "source": "imds", "audience": audience } });
        serde_json::from_value(text).unwrap()
    }

    fn checked(host: &str, audience: Option<&str>) -> Result<(), (&'static str, String)> {
        config(audience).check(&format!("sb://{host}/e").parse().unwrap())
    }

    #[test]
    fn a_token_for_azure_goes_to_azure_alone() {
        for azure in ["ns.servicebus.windows.net", "NS.ServiceBus.UsGovCloudApi.net.", "ns.servicebus.chinacloudapi.cn"]
        {
            assert_eq!(checked(azure, None), Ok(()), "{azure}");
        }
        for other in
            ["relay.example.com", "evilservicebus.windows.net", "servicebus.windows.net.example.com", "192.0.2.7"]
        {
            let (key, message) = checked(other, None).unwrap_err();
            assert_eq!(key, "credential.entra.audience");
            assert!(message.contains("is missing") && message.contains(other), "{message}");
            assert!(checked(other, Some("")).is_err());
            assert_eq!(checked(other, Some("relay.example.com")), Ok(()));
        }
    }

    #[tokio::test]
    async fn what_is_asked_for_is_what_was_written_or_azures() {
        let context = Context::new("causeway_test");
        let address: Address = "sb://ns.servicebus.windows.net/e".parse().unwrap();
        for (written, expected) in [(None, AZURE_AUDIENCE), (Some("a"), "a")] {
            let credential = config(written).open(&address, Path::new("."), &context).unwrap();
            assert!(matches!(&credential.kind, Kind::Source { audience, .. } if audience == expected));
        }
    }
}
