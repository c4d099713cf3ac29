//! What an Entra v2 token endpoint's answer means. Failures are told apart by status, `error` and the numbers in
//! `error_codes`, never by text.
use std::time::SystemTime;

use serde::Deserialize;
use serde_json::Value;

use crate::{
    http_client::Answer,
    token::{
        ErrorCode, Token, TokenError,
        answer::{bearer, foreign_page, life, passing, retry_after, tell},
    },
};

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
    let secret = bearer(success.access_token, &success.token_type)?;
    let left = life(&success.expires_in)?;
    let refresh = success.refresh_in.as_ref().and_then(life).map(|wish| now + wish.min(left));
    Some(Token { secret, expires: now + left, refresh })
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
    let number = failure.error_codes.first().copied();
    let (code, reason) = passing(answer).unwrap_or_else(|| match failure.error.as_str() {
        "" => (ErrorCode::SourceUnavailable, "that is no answer of a token endpoint; is a proxy in between?"),
        error => classify(error, number),
    });
    let mut message = format!("token for {audience} from {host}: status {}", answer.status.as_u16());
    let ids = [("error", &*failure.error), ("trace", &*failure.trace_id), ("correlation", &*failure.correlation_id)];
    tell(&mut message, &ids);
    if let Some(number) = number {
        message.push_str(&format!(", AADSTS{number}"));
    }
    if let Some(kind) = foreign_page(answer) {
        message.push_str(&format!(", {kind}"));
    }
    TokenError::new(code, format!("{message}: {reason}")).after(retry_after(&answer.headers))
}

/// What an OAuth error means for us, by Entra's numbers first.
fn classify(error: &str, number: Option<u64>) -> (ErrorCode, &'static str) {
    match number {
        Some(50196) => (ErrorCode::SourceThrottled, "it saw the same request too often"),
        Some(90033 | 50000) => (ErrorCode::SourceUnavailable, "it has trouble of its own"),
        Some(90061) => (ErrorCode::SourceUnavailable, "it cannot read the OpenID configuration of the token's issuer"),
        Some(700024) => (ErrorCode::AssertionExpired, "it finds the assertion outside its time; compare the clocks"),
        Some(70021 | 700_210..=700_213) => {
            (ErrorCode::FederationMismatch, "no federated credential matches what was shown")
        }
        Some(700016) => (ErrorCode::EntraRejected, "no such application in this tenant; compare client_id and tenant"),
        Some(7000215) => (ErrorCode::EntraRejected, "the client secret is wrong; write its value, not its id"),
        Some(7000222) => (ErrorCode::EntraRejected, "the client secret has expired; make a new one"),
        Some(700027) => (ErrorCode::EntraRejected, "the application does not know this certificate; upload it"),
        Some(50012 | 50013) => (ErrorCode::EntraRejected, "the signature of the assertion does not verify"),
        Some(50001 | 500011) => (ErrorCode::EntraRejected, "no such audience in this tenant; compare its spelling"),
        Some(70011 | 1002012) => (ErrorCode::EntraRejected, "the audience is not one; write it without /.default"),
        Some(90002) => (ErrorCode::EntraRejected, "no such tenant; compare tenant and authority"),
        _ if error == "temporarily_unavailable" => (ErrorCode::SourceUnavailable, "it says that this will pass"),
        _ => (ErrorCode::EntraRejected, "the request is refused as it is configured"),
    }
}
