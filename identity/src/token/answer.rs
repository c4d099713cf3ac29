//! What answers of token endpoints have in common: bearer tokens, lives, hints to wait, identifiers. What is repeated of
//! an answer are statuses, numbers and identifiers, never its text.
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use daemon::process::explain;
use http::{HeaderMap, header};
use serde_json::Value;
use time::{OffsetDateTime, PrimitiveDateTime, format_description::FormatItem, macros::format_description};

use super::{ErrorCode, TokenError};
use crate::{
    http_client::{Answer, HttpError, Limits},
    secret::Secret,
};

/// Largest answer: tokens with many groups reach tens of KiB.
const MAX_BODY: usize = 256 * 1024;

/// Longer lives are taken as this: nothing should be trusted for longer without asking.
const MAX_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// IMF-fixdate (RFC 9110 section 5.6.7), for `Date` and `Retry-After`.
const HTTP_DATE: &[FormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

/// The time that a fetch may take, over all its steps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    until: tokio::time::Instant,
}

impl Budget {
    pub(super) fn new(deadline: Duration) -> Self {
        Self { until: tokio::time::Instant::now() + deadline }
    }

    /// When it is spent.
    pub(super) fn until(self) -> tokio::time::Instant {
        self.until
    }

    /// What the next exchange may cost.
    pub(super) fn limits(self) -> Limits {
        Limits { deadline: self.until.saturating_duration_since(tokio::time::Instant::now()), body: MAX_BODY }
    }
}

/// The error that no answer amounts to; `what` says what was asked for.
pub(super) fn unanswered(what: &str, error: &HttpError) -> TokenError {
    let code = match error {
        HttpError::TooLarge { .. } => ErrorCode::UpstreamShape,
        HttpError::Url { .. } | HttpError::Tls(_) | HttpError::Build(_) => ErrorCode::SourceMisconfigured,
        HttpError::Deadline { .. } | HttpError::Unreachable { .. } => ErrorCode::SourceUnavailable,
    };
    TokenError::new(code, format!("{what}: {}", explain(error)))
}

/// Statuses that mean the same whoever answers: pauses, trouble, redirects. Nothing for the others.
pub(super) fn passing(answer: &Answer) -> Option<(ErrorCode, &'static str)> {
    match answer.status.as_u16() {
        429 => Some((ErrorCode::SourceThrottled, "it asks for fewer requests")),
        503 if retry_after(&answer.headers).is_some() => Some((ErrorCode::SourceThrottled, "it asks for a pause")),
        500..=599 => Some((ErrorCode::SourceUnavailable, "it has trouble of its own")),
        300..=399 => Some((ErrorCode::SourceUnavailable, "redirects are not followed; is a proxy in between?")),
        _ => None,
    }
}

/// A bearer token that a header can carry.
pub(super) fn bearer(access_token: String, token_type: &str) -> Option<Secret> {
    let secret = Secret::new(access_token);
    let usable = !secret.expose().is_empty() && secret.expose().bytes().all(|byte| byte.is_ascii_graphic());
    (usable && token_type.eq_ignore_ascii_case("bearer")).then_some(secret)
}

/// A number that may also be written as text.
pub(super) fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// A life in seconds; nothing when there is none.
pub(super) fn life(value: &Value) -> Option<Duration> {
    number(value).map(Duration::from_secs).filter(|life| !life.is_zero()).map(|life| life.min(MAX_LIFE))
}

/// A life up to a point in Unix time; nothing when it is over.
pub(super) fn life_until(value: &Value, now: SystemTime) -> Option<Duration> {
    let end = UNIX_EPOCH.checked_add(Duration::from_secs(number(value)?))?;
    end.duration_since(now).ok().filter(|life| !life.is_zero()).map(|life| life.min(MAX_LIFE))
}

/// The media type of an answer for people, when it is not JSON: a page of somebody in between.
pub(super) fn foreign_page(answer: &Answer) -> Option<&str> {
    let kind = answer.headers.get(header::CONTENT_TYPE)?.to_str().ok()?.split(';').next()?.trim();
    let known = |name: &&str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/+.-".contains(&byte));
    Some(kind).filter(|kind| kind.len() <= 64 && !kind.contains("json")).filter(known)
}

/// Identifiers only: whatever else an answer holds is not repeated.
pub(super) fn is_identifier(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// Appends the identifiers among these to a message, with their names.
pub(super) fn tell(message: &mut String, identifiers: &[(&str, &str)]) {
    for (name, text) in identifiers {
        if is_identifier(text) {
            message.push_str(&format!(", {name} {text}"));
        }
    }
}

/// `Retry-After` in seconds, or as a date; a date is compared with the answer's own, so that our clock plays no part.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
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
