//! Who may do what: finds the token, checks it, and only then lets anything be said about the entity.
use std::time::SystemTime;

use http::{HeaderMap, header};
use identity::sas::{self, Rights};
use proto::hybrid::{TOKEN_HEADER, address::Target};

use super::{
    Relay,
    entities::{Entity, compared},
    refusal::Refusal,
};

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Listen, or renew a listener's token.
    Listen,
    /// Connect as a sender.
    Send,
}

impl Need {
    fn is_met(self, rights: Rights) -> bool {
        match self {
            Self::Listen => rights.listen,
            Self::Send => rights.send,
        }
    }
}

/// What a token was good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    /// When the token ends.
    pub(crate) expires: SystemTime,
    /// Who holds it: the name of the rule.
    pub(crate) holder: String,
}

/// A token and what carried it.
#[derive(Debug)]
pub(crate) struct Carried<'a> {
    pub(crate) token: &'a str,
    /// It came in `Authorization`, which otherwise belongs to the application.
    pub(crate) in_authorization: bool,
}

/// The first token of: the query, `ServiceBusAuthorization`, `Authorization`.
pub(crate) fn carried<'a>(target: &'a Target, headers: &'a HeaderMap) -> Option<Carried<'a>> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    if let Some(token) = target.token().or_else(|| header(TOKEN_HEADER)) {
        return Some(Carried { token, in_authorization: false });
    }
    header(header::AUTHORIZATION.as_str()).map(|token| Carried { token, in_authorization: true })
}

/// Checks a token for `path`. The answer does not tell whether an entity exists: without one only the namespace's rules
/// can verify a token, and every other token fails in the same way as a wrong one for an entity that is there.
pub(crate) async fn check(
    relay: &Relay,
    entity: Option<&Entity>,
    path: &str,
    token: Option<&str>,
    need: Need,
) -> Result<Grant, Refusal> {
    let now = relay.clock.now();
    let namespace = relay.namespace();
    let token = token.filter(|token| !token.is_empty()).ok_or(Refusal::TokenMissing)?;
    let rules = namespace.rules(entity);
    // A listener serves the whole entity, so its token must cover all of it; a sender's may be for its suffix alone.
    let path = match (entity, need) {
        (Some(entity), Need::Listen) => entity.name.clone(),
        _ => compared(path).join("/"),
    };
    let verified = sas::verify(token, &rules, &namespace.host, &path, now, relay.grace)?;
    if verified.expires > now + relay.max_life + relay.grace {
        return Err(Refusal::TokenLife);
    }
    if !need.is_met(verified.rights) {
        return Err(Refusal::RightMissing);
    }
    Ok(Grant { expires: verified.expires, holder: verified.rule })
}
