//! `grants:`: what a caller with a JWT may do. A grant names an authenticator and narrows down whom it vouches for; what no
//! grant allows is refused.
use std::collections::BTreeMap;

use identity::{jwt::AuthenticatorConfig, principal::Principal, sas::Rights};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Problem, Right, rights};

/// Grants per entity, and for the namespace: each check of a JWT looks at all of them.
const GRANTS_MAX: usize = 256;

/// Authenticators of one relay: a token without a key id is tried with keys of each, before anybody is known to ask.
const AUTHENTICATORS_MAX: usize = 16;

/// Stands for everybody whom an authenticator vouches for.
const EVERYBODY: &str = "*";

/// What holders of JWTs may do.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantConfig {
    /// Whom it means.
    pub who: WhoConfig,
    /// What they may do.
    pub rights: Vec<Right>,
}

/// Whom a grant means. Of each list that is written one value must be the token's, so every further list means fewer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WhoConfig {
    /// Name of the authenticator that vouches.
    pub authenticator: String,
    /// Exact subjects, such as `system:serviceaccount:models:scorer`; `"*"` alone is everybody it vouches for.
    #[serde(default)]
    pub subjects: Vec<String>,
    /// Values of the `roles` claim.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Words of the `scp` or `scope` claim.
    #[serde(default)]
    pub scopes: Vec<String>,
}

impl GrantConfig {
    /// What it allows this principal.
    pub(crate) fn allows(&self, principal: &Principal) -> Rights {
        if self.who.means(principal) { rights(&self.rights) } else { Rights::default() }
    }
}

impl WhoConfig {
    fn means(&self, principal: &Principal) -> bool {
        let one_of =
            |wanted: &[String], has: &[String]| wanted.is_empty() || wanted.iter().any(|one| has.contains(one));
        self.authenticator == principal.authenticator()
            && (self.subjects.is_empty()
                || self.subjects.iter().any(|subject| subject == EVERYBODY || subject == principal.subject()))
            && one_of(&self.roles, principal.roles())
            && one_of(&self.scopes, principal.scopes())
    }
}

/// Names, and what each says for itself.
pub(super) fn check_authenticators(authenticators: &BTreeMap<String, AuthenticatorConfig>) -> Problem {
    if authenticators.len() > AUTHENTICATORS_MAX {
        let message = format!("has {} authenticators; {AUTHENTICATORS_MAX} is the limit", authenticators.len());
        return Err(("authenticators".to_owned(), message));
    }
    for (name, authenticator) in authenticators {
        authenticator.check().map_err(|message| (format!("authenticators.{name}"), message))?;
    }
    Ok(())
}

/// `key` is where the list stands.
pub(crate) fn check_grants(
    key: &str,
    grants: &[GrantConfig],
    authenticators: &BTreeMap<String, AuthenticatorConfig>,
) -> Problem {
    if grants.len() > GRANTS_MAX {
        return Err((key.to_owned(), format!("has {} grants; {GRANTS_MAX} is the limit", grants.len())));
    }
    for (index, GrantConfig { who, rights }) in grants.iter().enumerate() {
        let wrong = |at: &str, message: &str| Err((format!("{key}[{index}].{at}"), message.to_owned()));
        if !authenticators.contains_key(&who.authenticator) {
            return wrong("who.authenticator", "names none of the `authenticators` of relay.yaml");
        }
        if who.subjects.is_empty() && who.roles.is_empty() && who.scopes.is_empty() {
            return wrong("who", "means nobody; write subjects, roles or scopes, or `subjects: [\"*\"]` for everybody");
        }
        if who.subjects.len() > 1 && who.subjects.iter().any(|subject| subject == EVERYBODY) {
            return wrong("who.subjects", "has `*` beside others; it stands alone, for everybody");
        }
        if rights.is_empty() {
            return wrong("rights", "is empty; write [listen], [send] or [manage]");
        }
    }
    Ok(())
}
