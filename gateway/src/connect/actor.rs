//! The connector's own token: how it travels, and when it is renewed. It goes to a proven gateway only, in `Describe`.
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue};
use identity::token::{Cache, ErrorCode, TokenError};

/// A renewal begins when this share of the actor's life is over: early enough to try several times.
const RENEW_AT_PERCENT: u32 = 70;
/// Never more often than this, whatever the gateway says about the end of the actor's life.
const RENEW_MIN: Duration = Duration::from_secs(5);
/// When the gateway names no end.
const RENEW_UNKNOWN: Duration = Duration::from_secs(30 * 60);

/// Metadata name of the actor's token.
const ACTOR: &str = "causeway-actor";

/// Where the connector's token for one cluster comes from.
#[derive(Debug, Clone)]
pub(crate) struct Actor {
    cache: Cache,
    audience: String,
}

impl Actor {
    pub(crate) fn new(cache: Cache, audience: String) -> Self {
        Self { cache, audience }
    }

    /// Metadata of `Describe`.
    pub(crate) async fn metadata(&self) -> Result<HeaderMap, TokenError> {
        let token = self.cache.get(&self.audience).await?;
        let value = bearer(token.secret.expose()).ok_or_else(|| {
            TokenError::new(ErrorCode::UpstreamShape, "the token has characters that no header field may have")
        })?;
        let mut metadata = HeaderMap::new();
        metadata.insert(ACTOR, value);
        Ok(metadata)
    }

    /// The gateway refused the token: fetch another next time.
    pub(crate) fn refused(&self) {
        self.cache.refused(&self.audience);
    }
}

/// `Bearer <token>`, marked sensitive; nothing if the token cannot be a field value.
pub(crate) fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// When to renew an actor that ends at `expires` (Unix seconds; 0 or less: unknown).
pub(crate) fn renew_after(now: SystemTime, expires: i64) -> Duration {
    let Some(expires) = u64::try_from(expires).ok().filter(|seconds| *seconds > 0) else {
        return RENEW_UNKNOWN;
    };
    let end = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(expires)).unwrap_or(now);
    let left = end.duration_since(now).unwrap_or_default();
    (left / 100 * RENEW_AT_PERCENT).max(RENEW_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn renewal_begins_at_seventy_percent_of_what_is_left() {
        assert_eq!(renew_after(at(1000), 2000), Duration::from_secs(700));
    }

    #[test]
    fn an_ended_unknown_or_absurd_actor_life_never_spins() {
        assert_eq!(renew_after(at(1000), 900), RENEW_MIN);
        assert_eq!(renew_after(at(1000), 1001), RENEW_MIN);
        assert_eq!(renew_after(at(1000), 0), RENEW_UNKNOWN);
        assert_eq!(renew_after(at(1000), i64::MIN), RENEW_UNKNOWN);
        assert!(renew_after(at(1000), i64::MAX) >= RENEW_MIN);
    }

    #[test]
    fn the_token_is_sensitive_and_line_breaks_are_refused() {
        assert!(bearer("abc").unwrap().is_sensitive());
        assert!(bearer("abc\r\nx: y").is_none());
    }
}
