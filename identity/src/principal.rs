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
    pub(crate) claims: Arc<[(String, String)]>,
    pub(crate) proof: Proof,
    pub(crate) expires: SystemTime,
}

/// Who a principal is, and nothing else of it: to count by. Cheap to make.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    authenticator: Arc<str>,
    subject: Arc<str>,
}

/// What a principal was proven by, in names that an owner can put on a list of revoked ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proof {
    /// `jti` of the token.
    pub token_id: Option<Arc<str>>,
    /// `kid` of the key that signed the token.
    pub key_id: Option<Arc<str>>,
    /// Serial number of the certificate: lower-case hexadecimal digits without leading zeros.
    pub serial: Option<Arc<str>>,
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
    /// Who it is.
    pub fn name(&self) -> Name {
        Name { authenticator: Arc::clone(&self.authenticator), subject: Arc::clone(&self.subject) }
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
    /// Values of the claims that the authenticator keeps for policies, one pair for each value.
    pub fn claims(&self) -> &[(String, String)] {
        &self.claims
    }
    /// What it was proven by.
    pub fn proof(&self) -> &Proof {
        &self.proof
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
