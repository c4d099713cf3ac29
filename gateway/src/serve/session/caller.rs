//! Who calls (SD-3): the actor holds the tunnel, the subject's request it is. The actor is bound to the connection by
//! `Describe` with `causeway-actor`, or by the client certificate of the session, and stays the same principal for as
//! long as the connection lives; renewing its proof is allowed, becoming somebody else is not.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, header};
use identity::{jwt::Authenticators, principal::Principal};
use proto::tunnel::failure::{Code, Failure};
use tokio::sync::watch;

/// Metadata that carries the actor's token.
pub const ACTOR: &str = "causeway-actor";

/// How far the clocks of two machines may be apart: an actor's proof is taken for this much longer.
pub const LEEWAY: Duration = Duration::from_secs(60);

/// Both principals of one call.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who holds the tunnel.
    pub actor: Principal,
    /// Whose request it is.
    pub subject: Principal,
    /// The subject came with the call; otherwise it is the actor.
    pub own_subject: bool,
}

impl Caller {
    /// The same call, as its actor is proven now.
    #[must_use]
    pub fn renewed(&self, bound: Option<&Arc<Principal>>) -> Self {
        match bound {
            Some(bound) if is_same(bound, &self.actor) => {
                let actor = Principal::clone(bound);
                let subject = if self.own_subject { self.subject.clone() } else { actor.clone() };
                Self { actor, subject, own_subject: self.own_subject }
            }
            _ => self.clone(),
        }
    }
}

/// The actor bound to one connection.
#[derive(Debug)]
pub struct Binding(watch::Sender<Option<Arc<Principal>>>);

impl Binding {
    /// A connection whose session showed this client certificate, or none.
    pub fn new(certificate: Option<Principal>) -> Self {
        Self(watch::Sender::new(certificate.map(Arc::new)))
    }

    /// The actor as it is bound now.
    pub fn actor(&self) -> Option<Arc<Principal>> {
        self.0.borrow().clone()
    }

    /// Tells when the actor is bound or renewed.
    pub fn changes(&self) -> watch::Receiver<Option<Arc<Principal>>> {
        self.0.subscribe()
    }

    /// Verifies the actor's token, if the call carries one, and binds or renews the actor.
    ///
    /// # Errors
    /// `TokenRefused` when the token is not valid, or is somebody else's than the connection's actor.
    pub async fn bind(&self, metadata: &HeaderMap, authenticators: &Authenticators) -> Result<(), Failure> {
        let Some(token) = bearer(metadata, ACTOR)? else { return Ok(()) };
        let actor = Arc::new(verify(authenticators, token, "the actor's token").await?);
        let mut owner = None;
        // In one step, or two calls at once could each find nobody bound and bind somebody else.
        self.0.send_if_modified(|bound| match bound {
            Some(bound) if !is_same(bound, &actor) => {
                owner = Some(bound.to_string());
                false
            }
            Some(bound) if **bound == *actor => false,
            _ => {
                *bound = Some(Arc::clone(&actor));
                true
            }
        });
        match owner {
            Some(owner) => {
                let message = format!("this tunnel belongs to {owner}, and cannot become {actor}'s; open another one");
                Err(Failure::before_target(Code::TokenRefused, message))
            }
            None => Ok(()),
        }
    }

    /// Both principals of a call.
    ///
    /// # Errors
    /// `Unauthenticated` when there is no principal, `TokenRefused` when the subject's token is not valid.
    pub async fn caller(
        &self,
        metadata: &HeaderMap,
        authenticators: &Authenticators,
        now: SystemTime,
    ) -> Result<Caller, Failure> {
        let subject = match bearer(metadata, header::AUTHORIZATION.as_str())? {
            Some(token) => Some(verify(authenticators, token, "the subject's token").await?),
            None => None,
        };
        let actor = match self.actor() {
            Some(actor) if actor.expires() + LEEWAY < now => {
                let message = format!("the proof of {actor}, who holds this tunnel, has ended; renew it with Describe");
                return Err(Failure::before_target(Code::Unauthenticated, message));
            }
            actor => actor.map(|actor| Principal::clone(&actor)),
        };
        match (actor, subject) {
            (Some(actor), Some(subject)) => Ok(Caller { actor, subject, own_subject: true }),
            (None, Some(subject)) => Ok(Caller { actor: subject.clone(), subject, own_subject: true }),
            (Some(actor), None) => Ok(Caller { subject: actor.clone(), actor, own_subject: false }),
            (None, None) => Err(Failure::before_target(
                Code::Unauthenticated,
                "no token: send `authorization`, or bind an actor with Describe and `causeway-actor`",
            )),
        }
    }
}

/// Whether two proofs are of the same principal.
pub(super) fn is_same(one: &Principal, two: &Principal) -> bool {
    one.authenticator() == two.authenticator() && one.subject() == two.subject()
}

async fn verify(authenticators: &Authenticators, token: &str, what: &str) -> Result<Principal, Failure> {
    let refused = |error| Failure::before_target(Code::TokenRefused, format!("{what} was refused: {error}"));
    authenticators.verify(token).await.map_err(refused)
}

/// The bearer token in a field, if the field is there.
fn bearer<'a>(metadata: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Failure> {
    let refused = |what: &str| Failure::before_target(Code::TokenRefused, format!("{name}: {what}"));
    let mut values = metadata.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(refused("given more than once"));
    }
    let text = value.to_str().map_err(|_| refused("not ASCII text"))?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => {
            Ok(Some(token.trim()))
        }
        _ => Err(refused("not `Bearer <token>`")),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn metadata(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (header::AUTHORIZATION, HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_bearer_token_is_found_or_its_lack_is_explained() {
        assert_eq!(bearer(&metadata(&[]), "authorization"), Ok(None));
        assert_eq!(bearer(&metadata(&["Bearer a.b.c"]), "authorization"), Ok(Some("a.b.c")));
        assert_eq!(bearer(&metadata(&["bearer  a.b.c "]), "authorization"), Ok(Some("a.b.c")));
        for bad in [&["Basic dTpw"][..], &["Bearer"], &["Bearer  "], &["a.b.c"], &["Bearer a", "Bearer b"]] {
            let failure = bearer(&metadata(bad), "authorization").unwrap_err();
            assert_eq!(failure.code, Code::TokenRefused, "{bad:?}");
            assert!(!failure.message.contains("a.b.c"), "tokens are not repeated");
        }
    }
}
