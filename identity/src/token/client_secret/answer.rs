//! What a token endpoint's answer means. Failures are told apart by status, `error` and the numbers in `error_codes`,
//! never by text; what is repeated of an answer is these and its correlation ids.
use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::Value;
use time::{OffsetDateTime, PrimitiveDateTime, format_description::FormatItem, macros::format_description};

use crate::{
    http_client::Answer,
    secret::Secret,
    token::{ErrorCode, Token, TokenError},
};

/// Longer lives are taken as this: nothing should be trusted for longer without asking.
const MAX_LIFE: u64 = 30 * 24 * 3600;

/// IMF-fixdate (RFC 9110 section 5.6.7), for `Date` and `Retry-After`.
const HTTP_DATE: &[FormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

/// A token from the body of a 200, or nothing: half a success is a failure.
pub(super) fn token(body: &[u8], now: SystemTime) -> Option<Token> {
    #[derive(Deserialize)]
    struct Success {
        access_token: String,
        token_type: String,
        expires_in: Value,
        refresh_in: Option<Value>,
    }
    let success: Success = serde_json::from_slice(body).ok()?;
    let secret = Secret::new(success.access_token);
    let usable = !secret.expose().is_empty() && secret.expose().bytes().all(|byte| byte.is_ascii_graphic());
    if !usable || !success.token_type.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let life = seconds(&success.expires_in).filter(|life| *life > 0)?.min(MAX_LIFE);
    let refresh = success.refresh_in.as_ref().and_then(seconds).map(|wish| now + Duration::from_secs(wish.min(life)));
    Some(Token { secret, expires: now + Duration::from_secs(life), refresh })
}

/// Entra writes numbers; others write the same digits as text.
fn seconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// The part of an error body that is looked at.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Failure {
    error: String,
    error_codes: Vec<u64>,
    trace_id: String,
    correlation_id: String,
}

/// The error that an answer other than 200 amounts to.
pub(super) fn refusal(host: &str, audience: &str, answer: &Answer) -> TokenError {
    let failure: Failure = serde_json::from_slice(&answer.body).unwrap_or_default();
    let status = answer.status.as_u16();
    let hint = retry_after(&answer.headers);
    let number = failure.error_codes.first().copied();
    let (code, reason) = match status {
        429 => (ErrorCode::SourceThrottled, "it asks for fewer requests"),
        503 if hint.is_some() => (ErrorCode::SourceThrottled, "it asks for a pause"),
        500..=599 => (ErrorCode::SourceUnavailable, "it has trouble of its own"),
        300..=399 => (ErrorCode::SourceUnavailable, "redirects are not followed; is a proxy in between?"),
        _ if failure.error.is_empty() => {
            (ErrorCode::SourceUnavailable, "that is no answer of a token endpoint; is a proxy in between?")
        }
        _ => classify(&failure.error, number),
    };
    let mut message = format!("token for {audience} from {host}: status {status}");
    let names = [("error", &failure.error), ("trace", &failure.trace_id), ("correlation", &failure.correlation_id)];
    for (name, text) in names {
        if is_identifier(text) {
            message.push_str(&format!(", {name} {text}"));
        }
    }
    if let Some(number) = number {
        message.push_str(&format!(", AADSTS{number}"));
    }
    TokenError::new(code, format!("{message}: {reason}")).after(hint)
}

/// What an OAuth error means for us, by Entra's numbers first.
fn classify(error: &str, number: Option<u64>) -> (ErrorCode, &'static str) {
    match number {
        Some(50196) => (ErrorCode::SourceThrottled, "it saw the same request too often"),
        Some(90033 | 50000 | 90061) => (ErrorCode::SourceUnavailable, "it has trouble of its own"),
        Some(700016) => (ErrorCode::EntraRejected, "no such application in this tenant; compare client_id and tenant"),
        Some(7000215) => (ErrorCode::EntraRejected, "the client secret is wrong; write its value, not its id"),
        Some(7000222) => (ErrorCode::EntraRejected, "the client secret has expired; make a new one"),
        Some(50001 | 500011) => (ErrorCode::EntraRejected, "no such audience in this tenant; compare its spelling"),
        Some(70011 | 1002012) => (ErrorCode::EntraRejected, "the audience is not one; write it without /.default"),
        Some(90002) => (ErrorCode::EntraRejected, "no such tenant; compare tenant and authority"),
        _ if error == "temporarily_unavailable" => (ErrorCode::SourceUnavailable, "it says that this will pass"),
        _ => (ErrorCode::EntraRejected, "the request is refused as it is configured"),
    }
}

/// Identifiers only: whatever else an answer holds is not repeated.
fn is_identifier(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// `Retry-After` in seconds, or as a date; a date is compared with the answer's own, so that our clock plays no part.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let hint = text(header::RETRY_AFTER)?;
    if let Ok(seconds) = hint.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = |text: &str| PrimitiveDateTime::parse(text, HTTP_DATE).ok().map(PrimitiveDateTime::assume_utc);
    let now = text(header::DATE).and_then(date).unwrap_or_else(OffsetDateTime::now_utc);
    // In the past: at once.
    Some((date(hint)? - now).try_into().unwrap_or_default())
}
