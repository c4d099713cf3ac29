//! The one function that judges claims (SD-7): `exp`, `iss`, `aud` and the subject claim are required, `nbf` is checked,
//! types are strict, and a claim that is absent is never a claim that passes.
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::{
    JwtError, MAX_TOKEN, audience,
    config::{Rules, normal_type},
};

/// Longest subject; more would only fill logs.
const MAX_SUBJECT: usize = 512;

/// The end of the year 9999: larger numbers are no time, and would overflow sums.
const MAX_TIME: f64 = 253_402_300_799.0;

/// Claims that only an ID token has (OpenID Connect Core, sections 2 and 3.3.2.11).
const ID_TOKEN_CLAIMS: [&str; 3] = ["nonce", "at_hash", "c_hash"];

/// A token taken apart, nothing believed yet.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
    token_type: Option<String>,
    /// What was signed: head and claims as they stand.
    pub(super) message: &'a str,
    pub(super) signature: &'a str,
    pub(super) claims: Map<String, Value>,
}

/// What the claims of a verified token amount to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) subject: String,
    pub(super) groups: Vec<String>,
    pub(super) roles: Vec<String>,
    pub(super) scopes: Vec<String>,
    pub(super) claims: Vec<(String, String)>,
    /// `jti`.
    pub(super) token_id: Option<String>,
    pub(super) expires: SystemTime,
}

impl<'a> Parts<'a> {
    pub(super) fn parse(token: &'a str) -> Result<Self, JwtError> {
        if token.len() > MAX_TOKEN {
            return Err(JwtError::TooLong);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
        let (head, claims) = message.split_once('.').ok_or(JwtError::Malformed)?;
        let head = object(head)?;
        let text = |name: &str| match head.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(JwtError::Malformed),
        };
        let algorithm = text("alg")?.ok_or(JwtError::Malformed)?;
        if algorithm.eq_ignore_ascii_case("none") {
            return Err(JwtError::Unsigned);
        }
        if head.contains_key("crit") {
            return Err(JwtError::Critical);
        }
        Ok(Self {
            algorithm: algorithm.parse().map_err(|_| JwtError::Algorithm)?,
            key_id: text("kid")?,
            token_type: text("typ")?,
            message,
            signature,
            claims: object(claims)?,
        })
    }

    /// Judges the claims of a token whose signature a key of this authenticator has verified.
    pub(super) fn judge(&self, rules: &Rules, now: SystemTime) -> Result<Judged, JwtError> {
        let token_type = self.token_type.as_deref().unwrap_or("JWT");
        if !rules.types.contains(&normal_type(token_type)) {
            return Err(JwtError::Type);
        }
        let claim = |name: &str| self.claims.get(name);
        match claim("iss").ok_or(JwtError::IssuerMissing)? {
            Value::String(issuer) if *issuer == rules.issuer => {}
            Value::String(_) => return Err(JwtError::Issuer),
            _ => return Err(JwtError::IssuerType),
        }
        let audiences = match claim("aud").ok_or(JwtError::AudienceMissing)? {
            Value::String(audience) => vec![audience.as_str()],
            Value::Array(list) => texts(list).ok_or(JwtError::AudienceType)?,
            _ => return Err(JwtError::AudienceType),
        };
        if !audiences.iter().any(|claimed| audience::is_same(claimed, &rules.audience)) {
            return Err(JwtError::Audience);
        }
        let expires = time(claim("exp").ok_or(JwtError::ExpiryMissing)?).ok_or(JwtError::ExpiryType)?;
        if expires + rules.leeway <= now {
            return Err(JwtError::Expired);
        }
        if let Some(not_before) = claim("nbf")
            && time(not_before).ok_or(JwtError::NotBeforeType)? > now + rules.leeway
        {
            return Err(JwtError::NotYetValid);
        }
        if claim("cnf").is_some() {
            return Err(JwtError::Bound);
        }
        if ID_TOKEN_CLAIMS.iter().any(|name| self.claims.contains_key(*name)) {
            return Err(JwtError::IdToken);
        }
        let subject = match claim(&rules.subject).ok_or(JwtError::SubjectMissing)? {
            Value::String(subject) if names_somebody(subject) => subject.clone(),
            _ => return Err(JwtError::SubjectType),
        };
        let listed = |name: &str| match claim(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => texts(list).map(owned).ok_or(JwtError::GroupsType),
            Some(_) => Err(JwtError::GroupsType),
        };
        let (mut groups, roles) = (listed("groups")?, listed("roles")?);
        groups.extend_from_slice(&roles);
        // Entra writes `scp`, and RFC 9068 `scope`: words with spaces between them. Some issuers write a list.
        let mut scopes = Vec::new();
        for name in ["scp", "scope"] {
            match claim(name) {
                None => {}
                Some(Value::String(words)) => scopes.extend(owned(words.split_ascii_whitespace().collect())),
                Some(Value::Array(list)) => scopes.extend(texts(list).map(owned).ok_or(JwtError::ScopeType)?),
                Some(_) => return Err(JwtError::ScopeType),
            }
        }
        let mut claims = Vec::new();
        for name in &rules.claims {
            let values = match claim(name) {
                None => &[][..],
                Some(Value::Array(list)) => list,
                Some(one) => std::slice::from_ref(one),
            };
            claims.extend(values.iter().filter_map(plain).map(|value| (name.clone(), value)));
        }
        // A `jti` that is no text cannot be on anybody's list.
        let token_id = claim("jti").and_then(Value::as_str).map(str::to_owned);
        Ok(Judged { subject, groups, roles, scopes, claims, token_id, expires })
    }
}

/// `exp` of a token, whoever made it.
pub(super) fn unverified_expiry(token: &str) -> Option<SystemTime> {
    let claims = token.split('.').nth(1)?;
    if token.len() > MAX_TOKEN {
        return None;
    }
    time(object(claims).ok()?.get("exp")?)
}

/// Whether a token says that it is for this audience, whoever made it.
pub(super) fn unverified_is_for(token: &str, audience: &str) -> bool {
    let claims = token.split('.').nth(1).filter(|_| token.len() <= MAX_TOKEN).and_then(|claims| object(claims).ok());
    match claims.as_ref().and_then(|claims| claims.get("aud")) {
        Some(Value::String(claimed)) => audience::is_same(claimed, audience),
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).any(|one| audience::is_same(one, audience)),
        _ => false,
    }
}

fn object(part: &str) -> Result<Map<String, Value>, JwtError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| JwtError::Malformed)
}

fn owned(texts: Vec<&str>) -> Vec<String> {
    texts.into_iter().map(str::to_owned).collect()
}

fn texts(list: &[Value]) -> Option<Vec<&str>> {
    list.iter().map(Value::as_str).collect()
}

/// A claim's value as a rule compares it; what is neither text, number nor boolean is no value that a rule could name.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A NumericDate (RFC 7519 section 2): seconds, perhaps with a fraction, which is cut off.
fn time(value: &Value) -> Option<SystemTime> {
    let seconds = value.as_f64().filter(|seconds| (0.0..=MAX_TIME).contains(seconds))?;
    Some(UNIX_EPOCH + Duration::from_secs(seconds as u64))
}

fn names_somebody(subject: &str) -> bool {
    (1..=MAX_SUBJECT).contains(&subject.len()) && !subject.chars().any(char::is_control)
}
