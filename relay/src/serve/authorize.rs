//! Who may do what: finds the token, checks it, and only then lets anything be said about the entity.
use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, header};
use identity::{
    jwt::{Authenticators, JwtError},
    principal::Principal,
    sas::{self, KeyPrint, Rights, Rule},
};
use proto::hybrid::{TOKEN_HEADER, address::Target};

use super::{
    Relay,
    config::GrantConfig,
    entities::{Entity, Settings, compared},
    refusal::Refusal,
    stay::Stay,
};

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Listen, or renew a listener's token.
    Listen,
    /// Connect as a sender.
    Send,
    /// Read the description of a hybrid connection.
    Describe,
}

impl Need {
    fn met_by(self, rights: Rights) -> Result<(), Refusal> {
        let is_met = match self {
            Self::Listen => rights.listen,
            Self::Send => rights.send,
            Self::Describe => rights.listen || rights.send || rights.manage,
        };
        if is_met { Ok(()) } else { Err(Refusal::RightMissing) }
    }

    fn may_come_from(self, peer: IpAddr, settings: &Settings) -> Result<(), Refusal> {
        if self == Self::Listen && !settings.may_listen_from(peer) { Err(Refusal::ListenerAddress) } else { Ok(()) }
    }
}

/// Who asks for what, and with which token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a> {
    /// Where the connection came from.
    pub(crate) peer: IpAddr,
    /// Entity and suffix, as the client wrote them.
    pub(crate) path: &'a str,
    pub(crate) token: Option<&'a str>,
    pub(crate) need: Need,
}

/// Why somebody may be inside, with everything that a reload has to ask again.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    /// Who holds the token: the name of the rule, `<authenticator>/<subject>`, or `anonymous`.
    pub(crate) holder: String,
    /// The configuration that it was checked against.
    pub(crate) generation: u64,
    /// When the token ends, the grace included; a sender without a token has none.
    until: Option<SystemTime>,
    need: Need,
    peer: IpAddr,
    basis: Basis,
}

#[derive(Debug, Clone)]
enum Basis {
    /// The hybrid connection asks senders for no token.
    Anonymous,
    /// A rule, and which of its keys.
    Rule { name: String, key: KeyPrint },
    /// Somebody whom an authenticator vouched for. Its keys may have changed since: that is the business of new tokens.
    Principal(Principal),
}

impl Grant {
    /// How long the token lasts.
    pub(crate) fn left(&self, now: SystemTime) -> Duration {
        self.until.map_or(Duration::MAX, |until| until.duration_since(now).unwrap_or_default())
    }

    /// Whether no token was looked at.
    pub(crate) fn is_anonymous(&self) -> bool {
        matches!(self.basis, Basis::Anonymous)
    }

    /// Whether it still holds under other settings. The token itself was checked, and its end is not looked at.
    pub(crate) fn check_again(&self, settings: &Settings) -> Result<(), Refusal> {
        match &self.basis {
            Basis::Anonymous if settings.anonymous_senders => {}
            Basis::Anonymous => return Err(Refusal::TokenMissing),
            Basis::Rule { name, key } => {
                let mut rules = settings.permits.rules.iter();
                let rule = rules.find(|rule| rule.name.eq_ignore_ascii_case(name) && rule.has_key(key));
                let rights = rule.ok_or(Refusal::TokenSignature)?.rights;
                self.need.met_by(rights)?;
            }
            Basis::Principal(principal) => {
                if !settings.permits.authenticators.vouch_for(principal) {
                    return Err(Refusal::TokenSignature);
                }
                self.need.met_by(settings.permits.granted(principal))?;
            }
        }
        self.need.may_come_from(self.peer, settings)
    }
}

/// What decides about tokens on a path.
#[derive(Debug)]
pub(crate) struct Permits {
    /// Which configuration this is from; grows with each reload.
    pub(crate) generation: u64,
    /// The entity's rules first, then the namespace's.
    pub(crate) rules: Vec<Arc<Rule>>,
    /// The entity's grants first, then the namespace's.
    pub(crate) grants: Vec<Arc<GrantConfig>>,
    /// Who can vouch for holders of JWTs.
    pub(crate) authenticators: Arc<Authenticators>,
    /// Longest life that a token may have left.
    pub(crate) max_life: Duration,
    /// How long after its end a token still counts.
    pub(crate) grace: Duration,
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

/// Lets somebody in, the token before the entity.
pub(crate) async fn admit(relay: &Relay, ask: Ask<'_>) -> Result<Stay, Refusal> {
    if relay.shutdown.is_draining() {
        return Err(Refusal::Draining);
    }
    let entity = relay.namespace().find(ask.path).cloned();
    let grant = check(relay, entity.as_deref(), ask).await?;
    Stay::begin(entity.ok_or(Refusal::EntityUnknown)?, grant)
}

/// Checks a token. The answer does not tell whether an entity exists: without one only what the namespace permits can
/// count, and every other token fails in the same way as a wrong one for an entity that is there.
pub(crate) async fn check(relay: &Relay, entity: Option<&Entity>, ask: Ask<'_>) -> Result<Grant, Refusal> {
    let now = relay.clock.now();
    let namespace = relay.namespace();
    let settings = entity.map(Entity::settings);
    let permits = settings.as_ref().map_or(&namespace.permits, |settings| &settings.permits);
    let Ask { peer, need, .. } = ask;
    let grant = |holder, until, basis| Grant { holder, generation: permits.generation, until, need, peer, basis };
    if need == Need::Send && settings.as_ref().is_some_and(|settings| settings.anonymous_senders) {
        enabled(settings.as_deref())?;
        return Ok(grant("anonymous".to_owned(), None, Basis::Anonymous));
    }
    let token = ask.token.filter(|token| !token.is_empty()).ok_or(Refusal::TokenMissing)?;
    let (holder, rights, expires, basis) = if sas::looks_like(token) {
        // A listener serves the whole entity, so its token must cover all of it; a sender's may be for its suffix alone.
        let path = match (entity, need) {
            (Some(entity), Need::Listen | Need::Describe) => entity.name.clone(),
            _ => compared(ask.path).join("/"),
        };
        let rules: Vec<&Rule> = permits.rules.iter().map(Arc::as_ref).collect();
        let verified = sas::verify(token, &rules, &namespace.host, &path, now, permits.grace)?;
        let basis = Basis::Rule { name: verified.rule.clone(), key: verified.key };
        (verified.rule, verified.rights, verified.expires, basis)
    } else {
        let jwt = permits.jwt(token).ok_or(Refusal::TokenMalformed)?;
        let principal = permits.authenticators.verify(jwt).await.map_err(refused)?;
        (principal.to_string(), permits.granted(&principal), principal.expires(), Basis::Principal(principal))
    };
    if expires > now + permits.max_life + permits.grace {
        return Err(Refusal::TokenLife);
    }
    need.met_by(rights)?;
    // Only who has proven to be one of this entity's own learns that it is disabled or pinned.
    enabled(settings.as_deref())?;
    settings.as_ref().map_or(Ok(()), |settings| need.may_come_from(peer, settings))?;
    Ok(grant(holder, Some(expires + permits.grace), basis))
}

fn enabled(settings: Option<&Settings>) -> Result<(), Refusal> {
    if settings.is_none_or(|settings| settings.enabled) { Ok(()) } else { Err(Refusal::EntityDisabled) }
}

impl Permits {
    fn granted(&self, principal: &Principal) -> Rights {
        self.grants.iter().map(|grant| grant.allows(principal)).fold(Rights::default(), Rights::and)
    }

    /// The JWT in a token, if that is one and somebody here could vouch for it. SDKs send it bare, in any carrier.
    fn jwt<'a>(&self, token: &'a str) -> Option<&'a str> {
        const PREFIX: &str = "Bearer ";
        let bearer = token.get(..PREFIX.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX));
        let bare = if bearer { token[PREFIX.len()..].trim_start() } else { token };
        (!self.authenticators.is_empty() && bare.matches('.').count() == 2).then_some(bare)
    }
}

/// What is wrong with a JWT, in the words that shared access signatures have for the same.
fn refused(error: JwtError) -> Refusal {
    match error {
        JwtError::Malformed => Refusal::TokenMalformed,
        JwtError::Signature => Refusal::TokenSignature,
        JwtError::Expired => Refusal::TokenExpired,
        JwtError::Audience => Refusal::TokenAudience,
        other => Refusal::Jwt(other),
    }
}
