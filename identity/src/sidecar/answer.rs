//! What is answered. One body suits every SDK: all values are texts, `expires_in` stands before `expires_on` (some
//! clients map both onto one property, and the later one wins), and an error says the same under every name that some
//! SDK prints. Bodies have a length and are not to be stored.
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;

use crate::{
    sidecar::Refusal,
    token::{Token, TokenError},
};

/// SDKs wait out a hint at each of up to eight attempts: a long one would hold their caller for minutes.
const SHORTEST_HINT: Duration = Duration::from_secs(1);
/// See [`SHORTEST_HINT`].
const LONGEST_HINT: Duration = Duration::from_secs(5);

/// A response with its whole body.
pub(super) type Answer = Response<Full<Bytes>>;

/// Fields in the order in which they must be written.
#[derive(Serialize)]
struct Grant<'a> {
    token_type: &'static str,
    resource: &'a str,
    client_id: &'a str,
    access_token: &'a str,
    ext_expires_in: String,
    expires_in: String,
    not_before: String,
    expires_on: String,
}

#[derive(Serialize)]
struct Failure<'a> {
    error: &'a str,
    error_description: &'a str,
    #[serde(rename = "statusCode")]
    status_code: u16,
    message: &'a str,
    #[serde(rename = "correlationId")]
    correlation_id: &'a str,
}

/// A token for `resource`, as it was asked for.
pub(super) fn grant(token: &Token, resource: &str, client_id: &str, now: SystemTime) -> Answer {
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let left = token.expires.duration_since(now).unwrap_or_default().as_secs().to_string();
    json(
        StatusCode::OK,
        &Grant {
            token_type: "Bearer",
            resource,
            client_id,
            access_token: token.secret.expose(),
            ext_expires_in: left.clone(),
            expires_in: left,
            not_before: seconds(now).to_string(),
            expires_on: seconds(token.expires).to_string(),
        },
    )
}

/// A refusal of our own.
pub(super) fn refuse(refusal: Refusal, correlation_id: &str) -> Answer {
    let text = format!("{}: {}; {}", refusal.name(), refusal.meaning(), refusal.remedy());
    let mut answer = failure(refusal.status(), refusal.name(), &text, correlation_id);
    match refusal {
        Refusal::Draining => hint(&mut answer, SHORTEST_HINT),
        Refusal::UnknownMethod => {
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        }
        _ => {}
    }
    answer
}

/// A source that has no token. What a person must mend is a 403, so that no SDK keeps trying; what may pass is a 503.
pub(super) fn fail(error: &TokenError, correlation_id: &str) -> Answer {
    let status = if error.code.retryable() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::FORBIDDEN };
    let mut answer = failure(status, error.code.name(), &error.to_string(), correlation_id);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        hint(&mut answer, error.retry_after.unwrap_or_default().clamp(SHORTEST_HINT, LONGEST_HINT));
    }
    answer
}

fn hint(answer: &mut Answer, pause: Duration) {
    let seconds = pause.as_millis().div_ceil(1000) as u64;
    answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
}

fn failure(status: StatusCode, code: &str, text: &str, correlation_id: &str) -> Answer {
    let status_code = status.as_u16();
    json(status, &Failure { error: code, error_description: text, status_code, message: text, correlation_id })
}

fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(body).expect("texts and numbers are always JSON");
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
