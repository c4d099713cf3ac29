//! What proves to a relay who we are: a rule's key, read anew for each token, or a token source.
use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use daemon::{
    clock::SharedClock,
    config::{ConfigError, SecretRef},
    process::Context,
};
use identity::{
    sas::{self, Rights, Rule},
    secret::Secret,
    token::{Cache, SourceConfig, source},
};
use serde::Deserialize;

use super::{Address, DialError};

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
    Entra(SourceConfig),
}

/// A credential ready to mint tokens.
#[derive(Debug, Clone)]
pub enum Credential {
    /// A rule and its key.
    Sas {
        /// Rule name.
        rule: String,
        /// Where its key is.
        key: KeyFile,
        /// For the token's end.
        clock: SharedClock,
    },
    /// A token cache.
    Entra(Cache),
}

/// Where a key is.
#[derive(Debug, Clone)]
pub struct KeyFile {
    reference: SecretRef,
    base: PathBuf,
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
        match self {
            Self::Sas { rule, key } => {
                let file = KeyFile { reference: key.clone(), base: base.to_owned() };
                let checked = Rule { name: rule.clone(), rights: Rights::default(), keys: vec![file.read()?] };
                checked.check_strength().map_err(|error| ConfigError::Invalid {
                    path: base.to_owned(),
                    key: "credential.sas".to_owned(),
                    message: error.to_string(),
                })?;
                Ok(Credential::Sas { rule: rule.clone(), key: file, clock: context.clock.clone() })
            }
            Self::Entra(config) => {
                let source = source(config, base).map_err(|error| ConfigError::Invalid {
                    path: base.to_owned(),
                    key: "credential.entra".to_owned(),
                    message: error.to_string(),
                })?;
                Ok(Credential::Entra(Cache::new(source, context.clock.clone(), context.shutdown.clone())))
            }
        }
    }
}

impl KeyFile {
    fn read(&self) -> Result<Secret, ConfigError> {
        self.reference.read(&self.base).map(Secret::from)
    }
}

impl Credential {
    /// A token for the hybrid connection at `address`.
    pub async fn mint(&self, address: &Address) -> Result<Minted, DialError> {
        match self {
            Self::Sas { rule, key, clock } => {
                let key = key.read().map_err(DialError::Key)?;
                let expires = clock.now() + TOKEN_LIFE;
                Ok(Minted { secret: sas::mint(&address.resource(), rule, &key, expires), expires })
            }
            Self::Entra(cache) => {
                let token = cache.get(AUDIENCE).await.map_err(DialError::Token)?;
                Ok(Minted { secret: token.secret, expires: token.expires })
            }
        }
    }
}
