//! The two ways in which a config file says where a hybrid connection is and who we are to it: an address with a
//! credential, or one join string.
use std::path::Path;

use daemon::{
    config::{ConfigError, SecretRef},
    process::Context,
};

use super::{Address, Credential, CredentialConfig, JoinFile};

/// What a section says.
#[derive(Debug, Clone, Copy)]
pub struct Access<'a> {
    /// Key of the address in this section, and the address.
    pub url: (&'static str, Option<&'a str>),
    /// `credential`.
    pub credential: Option<&'a CredentialConfig>,
    /// `join`.
    pub join: Option<&'a SecretRef>,
}

impl Access<'_> {
    /// The first key that cannot be right, and why. Files are not read.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let (key, url) = self.url;
        match (url, self.credential, self.join) {
            (Some(url), Some(credential), None) => {
                let address = url.parse::<Address>().map_err(|error| (key, error.to_string()))?;
                credential.check(&address)
            }
            (None, None, Some(_)) => Ok(()),
            (Some(_), None, None) => {
                Err(("credential", "is missing: write `credential: { sas: { rule: …, key: { file: … } } }`".to_owned()))
            }
            (None, _, None) => {
                Err((key, format!("is missing: write `{key}` and `credential`, or `join: {{ file: … }}`")))
            }
            (_, _, Some(_)) => {
                Err(("join", format!("says everything that `{key}` and `credential` say; remove those")))
            }
        }
    }

    /// Reads what is named. `context` gives the clock, and owns the tasks of a token source.
    pub fn open(&self, base: &Path, context: &Context) -> Result<(Address, Credential), ConfigError> {
        let invalid = |(key, message): (&str, String)| ConfigError::Invalid {
            path: base.to_owned(),
            key: key.to_owned(),
            message,
        };
        self.check().map_err(invalid)?;
        match (self.url, self.credential, self.join) {
            (_, _, Some(join)) => Credential::join(JoinFile::new(join.clone(), base), base, context.clock.clone()),
            ((key, Some(url)), Some(credential), None) => {
                let address = url.parse::<Address>().map_err(|error| invalid((key, error.to_string())))?;
                let credential = credential.open(&address, base, context)?;
                Ok((address, credential))
            }
            ((key, _), _, None) => Err(invalid((key, "is missing".to_owned()))),
        }
    }
}
