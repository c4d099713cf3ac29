//! A proven identity. Only verification builds one.
use std::{fmt, sync::Arc, time::SystemTime};

/// Somebody who has proven who they are: always `<authenticator>/<subject>` (SD-7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub(crate) authenticator: Arc<str>,
    pub(crate) subject: Arc<str>,
    pub(crate) groups: Arc<[String]>,
    pub(crate) roles: Arc<[String]>,
    pub(crate) scopes: Arc<[String]>,
    pub(crate) expires: SystemTime,
}

impl Principal {
    /// Name of the authenticator that vouched.
    pub fn authenticator(&self) -> &str {
        &self.authenticator
    }
    /// The subject claim, or the certificate's subject.
    pub fn subject(&self) -> &str {
        &self.subject
    }
    /// Values of the `groups` and `roles` claims.
    pub fn groups(&self) -> &[String] {
        &self.groups
    }
    /// Values of the `roles` claim alone.
    pub fn roles(&self) -> &[String] {
        &self.roles
    }
    /// Words of the `scp` or `scope` claim.
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }
    /// When the proof ends.
    pub fn expires(&self) -> SystemTime {
        self.expires
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.authenticator, self.subject)
    }
}
