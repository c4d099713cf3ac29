//! As whom the gateway speaks to the API server: never as itself. Names that no rule maps begin with `causeway:`, so that
//! nobody outside becomes somebody whom the cluster knows already; names of Kubernetes' own (`system:`) are those that a
//! rule spells out, and `system:masters`, whom nothing can be refused, is none of them.

use std::fmt;

use crate::policy::decide::Party;

/// In front of every name that no rule maps.
pub const PREFIX: &str = "causeway:";

/// Whom an API server refuses nothing.
const MASTERS: &str = "system:masters";

/// Longest name. Subjects of tokens are far shorter, and every name is a header field's value.
pub const NAME_MAX: usize = 512;

/// A user and groups of the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub user: String,
    /// Groups, besides those that the API server adds itself.
    pub groups: Vec<String>,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.user)?;
        if self.groups.is_empty() { Ok(()) } else { write!(f, " in {}", self.groups.join(", ")) }
    }
}

/// Why a name cannot be impersonated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or too much.
    #[error("a name has 1 to {NAME_MAX} characters")]
    Length,
    /// The API server would see another name than this one.
    #[error("a name has ASCII characters only, and no space at its ends")]
    Characters,
    /// It looks like a pattern.
    #[error("names beginning `system:` are listed one by one; there are no wildcards")]
    Wildcard,
    /// `system:masters`.
    #[error("nobody ever becomes system:masters")]
    Masters,
}

/// Judges a name that a rule spells out, or that was made of a subject.
///
/// # Errors
/// What is wrong with it.
pub fn check(name: &str) -> Result<(), NameError> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(NameError::Length);
    }
    // Spaces at the ends of a field's value are cut off by whoever reads it.
    let plain = name.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if !plain || name.starts_with(' ') || name.ends_with(' ') {
        return Err(NameError::Characters);
    }
    let folded = name.to_ascii_lowercase();
    match folded.strip_prefix("system:") {
        Some(rest) if rest.contains('*') => Err(NameError::Wildcard),
        _ if folded == MASTERS => Err(NameError::Masters),
        _ => Ok(()),
    }
}

/// The name of a caller whom no rule maps.
pub(super) fn prefixed(party: &Party<'_>) -> String {
    format!("{PREFIX}{party}")
}

/// The name of a caller's group that no rule maps.
pub(super) fn prefixed_group(party: &Party<'_>, group: &str) -> String {
    format!("{PREFIX}{}/{group}", party.authenticator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_be_read_as_others_or_rule_everything_are_none() {
        for (name, problem) in [
            ("", NameError::Length),
            (" system:masters", NameError::Characters),
            ("alice ", NameError::Characters),
            ("alice\r\nx: y", NameError::Characters),
            ("älice", NameError::Characters),
            ("a\tb", NameError::Characters),
            ("system:masters", NameError::Masters),
            ("System:Masters", NameError::Masters),
            ("system:*", NameError::Wildcard),
            ("system:serviceaccount:*:default", NameError::Wildcard),
        ] {
            assert_eq!(check(name), Err(problem), "{name:?}");
        }
        assert_eq!(check(&"x".repeat(NAME_MAX + 1)), Err(NameError::Length));
        let longest = "x".repeat(NAME_MAX);
        for name in ["alice", "causeway:entra/7d5c", "Domain Admins", "system:serviceaccount:models:scorer", &longest] {
            assert_eq!(check(name), Ok(()), "{name:?}");
        }
    }
}
