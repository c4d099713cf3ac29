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
    token::{Cache, SourceConfig, source},
};
use serde::Deserialize;

use super::{Address, DialError, JoinFile, JoinLogin};

/// Life of the shared access signatures that we mint: what the SDKs use, and short enough that a leaked one is soon
/// worth nothing.
pub const TOKEN_LIFE: Duration = Duration::from_secs(3600);

/// Audience of Azure Relay.
const AUDIENCE: &str = "https://relay.azure.net";

/// `credential: { sas: { rule: …, key: { file: … } } }` or `{ entra: { source: … } }`, of a listener or a sender.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum CredentialConfig {
    /// Mint shared access signatures from a rule's key.
    Sas {
        /// Rule name.
        rule: String,
        /// Its key. A file is read anew for each token, so a rotated key needs no restart.
        key: SecretRef,
    },
    /// Ask a token source; audience `https://relay.azure.net`.
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
    Source(Cache),
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

impl CredentialConfig {
    /// Checks keys and starts caches.
    pub fn open(&self, base: &Path, context: &Context) -> Result<Credential, ConfigError> {
        let kind = match self {
            Self::Sas { rule, key } => {
                let kept = Key::Kept(key.clone(), base.to_owned());
                check_strength(rule, &kept.read()?, base, "credential.sas")?;
                Kind::Rule { rule: rule.clone(), key: kept }
            }
            Self::Entra(config) => {
                let source = source(config, base).map_err(|error| ConfigError::Invalid {
                    path: base.to_owned(),
                    key: "credential.entra".to_owned(),
                    message: error.to_string(),
                })?;
                Kind::Source(Cache::new(source, context.clock.clone(), context.shutdown.clone()))
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
        Self { kind: Kind::Source(cache), clock }
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
            Kind::Source(cache) => {
                let token = cache.get(AUDIENCE).await.map_err(DialError::Token)?;
                Ok(Minted { secret: token.secret, expires: token.expires })
            }
        }
    }

    /// A relay did not believe the last token. Keys are read anew for each token anyway; a source is asked for another.
    pub fn refused(&self) {
        if let Kind::Source(cache) = &self.kind {
            cache.refused(AUDIENCE);
        }
    }

    /// A token made at once from a rule's key, or a fixed one, for another hybrid connection of the same relay; to learn
    /// how far a credential of `address` goes. Tokens of an issuer do not say where they are good.
    pub(crate) fn mint_elsewhere(&self, address: &Address, elsewhere: &Address) -> Option<Minted> {
        let login = match &self.kind {
            Kind::Rule { rule, key } => JoinLogin::Key { rule: rule.clone(), key: key.read().ok()? },
            Kind::Signature { token, expires } => JoinLogin::Signature { token: token.clone(), expires: *expires },
            Kind::Join(file) => file.read_for(address).ok()?,
            Kind::Source(_) => return None,
        };
        Some(match login {
            JoinLogin::Key { rule, key } => self.sign(elsewhere, &rule, &key),
            JoinLogin::Signature { token, expires } => Minted { secret: token, expires },
        })
    }

    /// Whether it is one token that nothing renews.
    pub(crate) fn is_fixed(&self, address: &Address) -> bool {
        match &self.kind {
            Kind::Rule { .. } | Kind::Source(_) => false,
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
