//! Who must not come in any more, whatever the rules say: people, stolen tokens, stolen keys, lost certificates (SD-7). A
//! file of its own, so that it can be written in a hurry by somebody who may not write the policy. It only takes away.

use daemon::config::Validate;
use serde::Deserialize;

use super::{compile::MTLS, decide::Party};

/// The deny file. A change ends the streams that it names at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Deny {
    /// Principals, `authenticator/subject`, as subject or as actor.
    pub subjects: Vec<String>,
    /// Tokens, by their `jti`.
    pub jti: Vec<String>,
    /// Keys that signed tokens, by their `kid`, of whatever authenticator.
    pub kid: Vec<String>,
    /// Client certificates, by serial number: hexadecimal digits, with or without colons.
    pub serials: Vec<String>,
}

/// What somebody was denied for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The principal.
    Subject,
    /// The token.
    Token,
    /// The key that signed the token.
    Key,
    /// The certificate.
    Certificate,
}

impl Denied {
    /// In a message, after a name.
    pub fn text(self) -> &'static str {
        match self {
            Self::Subject => "is on the cluster owner's deny list",
            Self::Token => "shows a token that is on the cluster owner's deny list (jti)",
            Self::Key => "shows a token signed by a key that is on the cluster owner's deny list (kid)",
            Self::Certificate => "shows a certificate that is on the cluster owner's deny list (serial)",
        }
    }
}

impl Deny {
    /// Whether somebody is on the list, and for what.
    pub fn find(&self, party: &Party<'_>) -> Option<Denied> {
        let on = |list: &[String], value: Option<&str>| value.is_some_and(|value| list.iter().any(|one| one == value));
        let principal = |one: &String| one.split_once('/') == Some((party.authenticator, party.subject));
        let serial = |one: &String| party.serial.is_some_and(|serial| canonical(one) == serial);
        if self.subjects.iter().any(principal) {
            Some(Denied::Subject)
        } else if on(&self.jti, party.token_id) {
            Some(Denied::Token)
        } else if on(&self.kid, party.key_id) {
            Some(Denied::Key)
        } else if self.serials.iter().any(serial) {
            Some(Denied::Certificate)
        } else {
            None
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.subjects.len() + self.jti.len() + self.kid.len() + self.serials.len()
    }

    /// Whether nobody is denied.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Validate for Deny {
    /// An entry that can never be met is a mistake by somebody who believes that a door is shut.
    fn validate(&self) -> Result<(), (String, String)> {
        let wrong = |key: &str, index: usize, message: String| Err((format!("{key}[{index}]"), message));
        for (index, principal) in self.subjects.iter().enumerate() {
            match principal.split_once('/') {
                Some((authenticator, subject)) if !authenticator.is_empty() && !subject.is_empty() => {}
                _ => return wrong("subjects", index, format!("\"{principal}\" is not `authenticator/subject`")),
            }
        }
        for (key, list) in [("jti", &self.jti), ("kid", &self.kid)] {
            if let Some(index) = list.iter().position(String::is_empty) {
                return wrong(key, index, "is empty".to_owned());
            }
        }
        for (index, serial) in self.serials.iter().enumerate() {
            let digits = canonical(serial);
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                let message =
                    format!("\"{serial}\" is no serial number: hexadecimal digits, in pairs with `:` or without");
                return wrong("serials", index, message);
            }
        }
        Ok(())
    }
}

/// A serial number as [`identity::principal::Proof`] has it.
fn canonical(serial: &str) -> String {
    let digits: String = serial.chars().filter(|sign| *sign != ':').map(|sign| sign.to_ascii_lowercase()).collect();
    let shown = digits.trim_start_matches('0');
    if shown.is_empty() && !digits.is_empty() { "0".to_owned() } else { shown.to_owned() }
}

/// Whether an entry of the list names an authenticator that is not there: worth a warning, since it denies nobody.
pub fn unknown_authenticators(deny: &Deny, known: impl Fn(&str) -> bool) -> Vec<&str> {
    let named = deny.subjects.iter().filter_map(|principal| principal.split_once('/'));
    named.map(|(authenticator, _)| authenticator).filter(|name| *name != MTLS && !known(name)).collect()
}
