//! What the answer of a managed-identity endpoint means. Success is JSON whose numbers may be texts; IMDS tells the life
//! in two ways, App Service by its end alone. Failures are told apart by status and `error`, never by the description.
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::Value;

use super::Kind;
use crate::{
    http_client::Answer,
    token::{
        ErrorCode, Token, TokenError,
        answer::{bearer, foreign_page, life, life_until, passing, retry_after, tell},
    },
};

/// An endpoint that is being updated is back within 70 s, and says so with 410.
const UPDATING: Duration = Duration::from_secs(10);

/// A token from the body of a 200, or what is wrong with it. `selector` is the identity that was asked for: an answer
/// that names another one is refused, and one that names none too if it `must_echo`.
pub(super) fn token(
    body: &[u8],
    selector: Option<(&str, &str)>,
    must_echo: bool,
    now: SystemTime,
) -> Result<Token, &'static str> {
    #[derive(Deserialize)]
    struct Success {
        access_token: String,
        token_type: String,
        expires_in: Option<Value>,
        expires_on: Option<Value>,
        refresh_in: Option<Value>,
        client_id: Option<String>,
        object_id: Option<String>,
        #[serde(alias = "mi_res_id")]
        msi_res_id: Option<String>,
    }
    let success: Success = serde_json::from_slice(body).map_err(|_| "without a usable token")?;
    let secret = bearer(success.access_token, &success.token_type).ok_or("without a usable token")?;
    // What is left from now needs no agreement about clocks, so it comes first.
    let left = success.expires_in.as_ref().and_then(life);
    let left = left.or_else(|| life_until(success.expires_on.as_ref()?, now)).ok_or("without saying when it ends")?;
    if let Some((name, wanted)) = selector {
        let named = match name {
            "client_id" => &success.client_id,
            "object_id" => &success.object_id,
            _ => &success.msi_res_id,
        };
        match named.as_deref().filter(|named| !named.is_empty()) {
            Some(named) if !named.eq_ignore_ascii_case(wanted) => {
                return Err("for another identity than was asked for");
            }
            None if must_echo => return Err("without saying for which identity"),
            _ => {}
        }
    }
    let refresh = success.refresh_in.as_ref().and_then(life).map(|wish| now + wish.min(left));
    Ok(Token { secret, expires: now + left, refresh })
}

/// The part of an error body that is looked at; IMDS and App Service each have their own.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Failure {
    error: Value,
    correlation_id: String,
    status_code: Value,
}

/// The error that an answer other than 200 amounts to.
pub(super) fn refusal(kind: Kind, asked: &str, answer: &Answer) -> TokenError {
    let failure: Option<Failure> = serde_json::from_slice(&answer.body).ok();
    let understood = failure.as_ref().is_some_and(|failure| !failure.error.is_null() || !failure.status_code.is_null());
    let failure = failure.unwrap_or_default();
    let error = failure.error.as_str().unwrap_or_default();
    let status = answer.status.as_u16();
    let (code, reason) = passing(answer).unwrap_or_else(|| classify(kind, status, error, understood));
    let mut message = format!("{asked}: status {status}");
    tell(&mut message, &[("error", error), ("correlation", &failure.correlation_id)]);
    if let Some(page) = foreign_page(answer) {
        message.push_str(&format!(", {page}"));
    }
    let hint = retry_after(&answer.headers).or((status == 410).then_some(UPDATING));
    TokenError::new(code, format!("{message}: {reason}")).after(hint)
}

fn classify(kind: Kind, status: u16, error: &str, understood: bool) -> (ErrorCode, &'static str) {
    match (status, error) {
        (404 | 408 | 410, _) => (ErrorCode::SourceUnavailable, "it is being updated, or is not what `source` says"),
        (401, _) if kind == Kind::AppService => (ErrorCode::SourceRefused, "it does not accept the secret header"),
        (403, _) if kind == Kind::AppService => (ErrorCode::SourceRefused, "it does not grant this"),
        (401 | 403, _) if kind == Kind::Arc => (ErrorCode::SourceRefused, "it does not accept what we can prove"),
        (400 | 401, _) if !understood => {
            (ErrorCode::SourceUnavailable, "that is no answer of an identity endpoint; is a proxy in between?")
        }
        (400, "bad_request_102") => {
            (ErrorCode::SourceRefused, "it did not see the Metadata header; is a proxy in between?")
        }
        (_, "invalid_resource") => (ErrorCode::EntraRejected, "no such audience in this tenant; compare its spelling"),
        (400, _) => {
            (ErrorCode::IdentitySourceMissing, "this machine has no such identity, or there is no such audience")
        }
        (401, "unauthorized_client") => (ErrorCode::IdentitySourceMissing, "this machine has no such identity"),
        _ => (ErrorCode::SourceRefused, "it does not serve us; is this what `source` says?"),
    }
}
