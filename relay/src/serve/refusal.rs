//! Every way in which the relay says no: status, text, code, meaning, remedy.
//!
//! Texts follow the live service where they were seen, because senders' tools match on them. Where the service's own
//! sources disagree or are silent, the choice and its reason stand beside the status.
mod texts;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use hyper::ext::ReasonPhrase;
use identity::{jwt::JwtError, sas::SasError};
use proto::hybrid::status::{Tracking, reason};

use super::{body::Body, share::Excess};

/// Seconds after which a relay that ends is replaced by another, or by itself.
const RETRY_AFTER: u64 = 5;

/// A refusal. Its name is a stable code, found in logs, metrics and the answer's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The path cannot be read, or the action is unknown.
    BadTarget,
    /// No `Host`, or one that is not an authority.
    BadHost,
    /// A request under `/$hc/` that is not a WebSocket upgrade.
    NotWebSocket,
    /// An upgrade to another version than 13.
    WebSocketVersion,
    /// A WebSocket upgrade on the plain entity path.
    PlainPathWebSocket,
    /// A WebSocket sender on a hybrid connection for HTTP, or the other way round.
    KindMismatch,
    /// CONNECT, which no hybrid connection can relay.
    ConnectMethod,
    /// Anything but GET for the relay itself.
    ManagementMethod,
    /// No token.
    TokenMissing,
    /// Neither a shared access signature nor a JWT.
    TokenMalformed,
    /// No rule made this signature.
    TokenSignature,
    /// Past its end.
    TokenExpired,
    /// Made for something else.
    TokenAudience,
    /// Lives longer than this relay allows.
    TokenLife,
    /// A JWT that is refused for a reason which shared access signatures do not have.
    Jwt(JwtError),
    /// The rule lacks the right, or no grant gives it.
    RightMissing,
    /// Listeners may not come from this address.
    ListenerAddress,
    /// No such hybrid connection.
    EntityUnknown,
    /// It is there, and is not served.
    EntityDisabled,
    /// Nobody listens.
    NoListener,
    /// Somebody listens, and the sender wants none of them.
    NoEligibleListener,
    /// Somebody listens, and did not accept in time.
    AcceptTimeout,
    /// A listener has an HTTP request, and did not begin to answer it in time.
    ResponseTimeout,
    /// A listener answered an HTTP request with something that is no answer.
    BadResponse,
    /// The listener went away before it accepted.
    ListenerLost,
    /// One listener more than allowed.
    TooManyListeners,
    /// One sender more than allowed.
    TooManySenders,
    /// Senders come faster than they may.
    TooManyRequests,
    /// One address has more connections than it may have.
    TooManyConnections,
    /// Too many senders wait for listeners.
    TooManyRendezvous,
    /// The sender's head does not fit into a message to the listener.
    HeadTooLarge,
    /// The sender did not send its body in time.
    BodyTooSlow,
    /// The sender's body breaks HTTP's rules.
    BodyBroken,
    /// An accept address that was never given out, was used before, or is too old.
    RendezvousUnknown,
    /// A listener rejects with a status that is none.
    RejectCode,
    /// A listener chose a subprotocol that the sender had not offered.
    ProtocolNotOffered,
    /// The relay is ending.
    Draining,
}

impl Refusal {
    /// Every refusal there is, but for JWTs, which have a catalogue of their own.
    pub const ALL: &[Self] = &[
        Self::BadTarget,
        Self::BadHost,
        Self::NotWebSocket,
        Self::WebSocketVersion,
        Self::PlainPathWebSocket,
        Self::KindMismatch,
        Self::ConnectMethod,
        Self::ManagementMethod,
        Self::TokenMissing,
        Self::TokenMalformed,
        Self::TokenSignature,
        Self::TokenExpired,
        Self::TokenAudience,
        Self::TokenLife,
        Self::RightMissing,
        Self::ListenerAddress,
        Self::EntityUnknown,
        Self::EntityDisabled,
        Self::NoListener,
        Self::NoEligibleListener,
        Self::AcceptTimeout,
        Self::ResponseTimeout,
        Self::BadResponse,
        Self::ListenerLost,
        Self::TooManyListeners,
        Self::TooManySenders,
        Self::TooManyRequests,
        Self::TooManyConnections,
        Self::TooManyRendezvous,
        Self::HeadTooLarge,
        Self::BodyTooSlow,
        Self::BodyBroken,
        Self::RendezvousUnknown,
        Self::RejectCode,
        Self::ProtocolNotOffered,
        Self::Draining,
    ];

    /// HTTP status.
    pub fn status(self) -> StatusCode {
        match self {
            Self::BadTarget
            | Self::BadHost
            | Self::NotWebSocket
            | Self::PlainPathWebSocket
            | Self::ConnectMethod
            | Self::BodyBroken
            | Self::RejectCode
            | Self::ProtocolNotOffered => StatusCode::BAD_REQUEST,
            Self::WebSocketVersion => StatusCode::UPGRADE_REQUIRED,
            Self::ManagementMethod => StatusCode::METHOD_NOT_ALLOWED,
            // 404 would say that the entity is not there, and 400 that the request is wrong everywhere.
            Self::KindMismatch => StatusCode::NOT_IMPLEMENTED,
            Self::TokenMissing
            | Self::TokenMalformed
            | Self::TokenSignature
            | Self::TokenExpired
            | Self::TokenAudience
            | Self::TokenLife => StatusCode::UNAUTHORIZED,
            // Nobody's fault but ours and the issuer's, and soon over.
            Self::Jwt(JwtError::KeysUnavailable) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Jwt(_) => StatusCode::UNAUTHORIZED,
            // The documents say 403 for a missing right, an emulator 401. 403 tells an operator that the key is good.
            Self::RightMissing | Self::ListenerAddress => StatusCode::FORBIDDEN,
            Self::EntityUnknown => StatusCode::NOT_FOUND,
            // Not 404: that would stop .NET's listeners for good, and it may be enabled again.
            Self::EntityDisabled => StatusCode::FORBIDDEN,
            // Seen live for WebSocket senders. For HTTP senders the entity's configuration says it.
            Self::NoListener | Self::NoEligibleListener => StatusCode::NOT_FOUND,
            // Sources say 404, 408 and 504. SDKs turn 504 into a timeout, which it is, and 404 into "does not exist".
            Self::AcceptTimeout | Self::ResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::ListenerLost | Self::BadResponse => StatusCode::BAD_GATEWAY,
            // The handshake's status is not on record; .NET reads 403 as an exceeded quota, and 404 would stop a
            // listener for good.
            Self::TooManyListeners => StatusCode::FORBIDDEN,
            // SDKs retry on 503.
            Self::TooManySenders | Self::TooManyConnections | Self::TooManyRendezvous | Self::Draining => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            // What every HTTP client takes for "slower"; SDKs retry on it as on any status without a meaning to them.
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            // The documents say 403, an emulator 400.
            Self::RendezvousUnknown => StatusCode::FORBIDDEN,
        }
    }

    /// Whose doing it is: `peer`, `listener` or `relay`.
    pub(crate) fn fault(self) -> &'static str {
        match self {
            Self::NoListener | Self::AcceptTimeout | Self::ResponseTimeout | Self::BadResponse | Self::ListenerLost => {
                "listener"
            }
            Self::Draining => "relay",
            _ => "peer",
        }
    }

    /// Whether a listener that is told this has shown a token that somebody with a key made.
    pub(crate) fn is_of_genuine_token(self) -> bool {
        matches!(
            self,
            Self::TokenExpired
                | Self::TokenAudience
                | Self::TokenLife
                | Self::RightMissing
                | Self::ListenerAddress
                | Self::EntityUnknown
                | Self::EntityDisabled
                | Self::BadHost
                | Self::TooManyListeners
                | Self::TooManyConnections
        )
    }

    /// Stable code.
    pub fn name(self) -> &'static str {
        self.texts().0
    }

    /// What the peer reads: the first sentence of the reason phrase.
    pub fn text(self) -> &'static str {
        self.texts().1
    }

    /// What it means, for the catalogue.
    pub fn meaning(self) -> &'static str {
        self.texts().2
    }

    /// What to do, for the catalogue.
    pub fn remedy(self) -> &'static str {
        self.texts().3
    }

    /// The answer: status, reason phrase with the tracking block, a small JSON body, and the end of the connection.
    pub(crate) fn answer(self, tracking: &Tracking<'_>, excess: Option<Excess>) -> Response<Body> {
        let phrase = reason(self.text(), tracking);
        let mut body = serde_json::json!({ "code": self.name(), "message": phrase });
        // Whole seconds, and not too soon.
        let again = excess.map(|excess| excess.again.as_secs() + u64::from(excess.again.subsec_nanos() > 0));
        if let (Some(Excess { limit, value, current, .. }), Some(again)) = (excess, again) {
            body["limit"] = serde_json::json!({ "name": limit, "value": value, "current": current });
            body["retry_after_s"] = again.into();
        }
        let mut answer = bare(self.status(), &phrase, body.to_string());
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match self.status() {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("SharedAccessSignature"));
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
            }
            StatusCode::UPGRADE_REQUIRED => {
                headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            _ => {}
        }
        let again = again.or((self.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER));
        headers.extend(again.map(|seconds| (header::RETRY_AFTER, HeaderValue::from(seconds))));
        answer
    }
}

impl From<SasError> for Refusal {
    fn from(error: SasError) -> Self {
        match error {
            SasError::Malformed => Self::TokenMalformed,
            SasError::Signature => Self::TokenSignature,
            SasError::Expired => Self::TokenExpired,
            SasError::Audience => Self::TokenAudience,
        }
    }
}

/// An answer with a reason phrase of its own that ends the connection.
pub(crate) fn bare(status: StatusCode, phrase: &str, body: String) -> Response<Body> {
    let mut answer = Response::new(Body::from(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    // Phrases are cleaned before they come here; without one the standard phrase is sent.
    if let Ok(phrase) = ReasonPhrase::try_from(phrase.as_bytes().to_vec()) {
        answer.extensions_mut().insert(phrase);
    }
    answer
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, time::SystemTime};

    use super::*;

    #[test]
    fn every_refusal_has_its_own_name_and_all_texts() {
        let names: HashSet<&str> = Refusal::ALL.iter().map(|refusal| refusal.name()).collect();
        assert_eq!(names.len(), Refusal::ALL.len());
        for refusal in Refusal::ALL {
            assert!(refusal.status().as_u16() >= 400, "{refusal:?}");
            for text in [refusal.text(), refusal.meaning(), refusal.remedy()] {
                assert!(!text.is_empty() && text.is_ascii(), "{refusal:?}");
            }
        }
    }

    #[test]
    fn an_answer_carries_the_phrase_and_ends_the_connection() {
        let tracking = Tracking { id: "i", namespace: "ns", path: "e", at: SystemTime::UNIX_EPOCH };
        let answer = Refusal::TokenSignature.answer(&tracking, None);
        assert_eq!(answer.status(), 401);
        let phrase = answer.extensions().get::<ReasonPhrase>().unwrap();
        assert!(
            phrase.as_bytes().starts_with(b"InvalidSignature: The token has an invalid signature. TrackingId:i_G0")
        );
        assert_eq!(answer.headers()[header::CONNECTION], "close");
    }
}
