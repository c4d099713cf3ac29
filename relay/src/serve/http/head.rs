//! Heads of HTTP messages between a sender's connection and a listener's JSON.
//!
//! Both ends frame their messages themselves, so nothing that belongs to one connection passes to the other: what RFC 9110
//! calls hop-by-hop is removed on both ways, and lengths are computed anew. What a listener says is cleaned before it becomes
//! a line of HTTP; a name that is none is left out.
use std::collections::HashSet;

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri, Version, header, request, uri::Authority};
use hyper::ext::ReasonPhrase;
use proto::hybrid::{
    address::Target,
    message::{self, Headers},
    status::{REASON_MAX, clean},
};

use super::super::{body::Body, fields::forwarded, refusal::Refusal, stay::Stay};

/// Most bytes of names and values in a request: Azure's limit, as documented.
const FIELDS_MAX: usize = 32 * 1024;

/// Belong to one connection, or say how one message was framed on it. `close` is no field of any standard, but Azure
/// removes it. An expectation is met by the relay, which answers 100 itself.
const HOP_BY_HOP: [&str; 13] = [
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "close",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-authentication-info",
    "expect",
];

/// The fields of a request for a listener.
pub(super) fn request(
    sender: &Stay,
    target: &Target,
    parts: &request::Parts,
    namespace: &str,
) -> Result<Headers, Refusal> {
    let named = named(parts.headers.get_all(header::CONNECTION).iter().map(HeaderValue::as_bytes));
    let is_kept = |name: &HeaderName| {
        *name != header::HOST && !HOP_BY_HOP.contains(&name.as_str()) && !named.contains(name.as_str())
    };
    let mut fields = forwarded(sender, target, &parts.headers, is_kept);
    // Not joined with anything: a target in absolute form overrides the field (RFC 9112, section 3.2.2).
    fields.0.insert(0, ("Host".to_owned(), host(&parts.uri, &parts.headers, parts.version, namespace)?));
    fields.join("Via", &via(parts.version, namespace));
    let size: usize = fields.0.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > FIELDS_MAX { Err(Refusal::HeadTooLarge) } else { Ok(fields) }
}

/// The host that is asked for. HTTP/1.1 requires exactly one; a client of HTTP/1.0 may mean the only one there is.
fn host(uri: &Uri, headers: &HeaderMap, version: Version, namespace: &str) -> Result<String, Refusal> {
    let mut hosts = headers.get_all(header::HOST).into_iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err(Refusal::BadHost),
        (None, None) if version == Version::HTTP_10 => None,
        (None, None) => return Err(Refusal::BadHost),
        (Some(host), None) => Some(Authority::try_from(host.as_bytes()).map_err(|_| Refusal::BadHost)?),
    };
    let authority = uri.authority().cloned().or(host);
    match authority {
        Some(authority) if authority.as_str().contains('@') => Err(Refusal::BadHost),
        Some(authority) => Ok(authority.to_string()),
        None => Ok(namespace.to_owned()),
    }
}

/// The head of an answer, with an empty body. Its `Via` says that a listener gave it.
pub(super) fn response(answer: &message::Response, namespace: &str) -> Result<Response<Body>, Refusal> {
    // 1xx does not end a request.
    let status = Some(answer.status_code).filter(|status| *status >= 200);
    let status = status.and_then(|status| StatusCode::from_u16(status).ok()).ok_or(Refusal::BadResponse)?;
    let mut response = Response::new(Body::default());
    *response.status_mut() = status;
    // Without one, no phrase at all is better than a made-up one for a status that nobody knows.
    let phrase = match &answer.status_description {
        Some(description) => clean(description, REASON_MAX),
        None => status.canonical_reason().unwrap_or_default().to_owned(),
    };
    if let Ok(phrase) = ReasonPhrase::try_from(phrase.into_bytes()) {
        response.extensions_mut().insert(phrase);
    }
    let fields = &answer.response_headers.0;
    let connection = fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("connection"));
    let named = named(connection.map(|(_, value)| value.as_bytes()));
    let headers = response.headers_mut();
    for (name, value) in fields {
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
            tracing::debug!(name = clean(name, 64), "listener sent a field whose name is none");
            continue;
        };
        if HOP_BY_HOP.contains(&name.as_str()) || named.contains(name.as_str()) {
            continue;
        }
        if let Ok(value) = HeaderValue::from_bytes(&field_value(value)) {
            headers.append(name, value);
        }
    }
    let own = via(Version::HTTP_11, namespace);
    let mut all: Vec<&[u8]> = headers.get_all(header::VIA).iter().map(HeaderValue::as_bytes).collect();
    all.push(own.as_bytes());
    if let Ok(all) = HeaderValue::from_bytes(&all.join(&b", "[..])) {
        headers.insert(header::VIA, all);
    }
    Ok(response)
}

fn via(version: Version, namespace: &str) -> String {
    let version = if version == Version::HTTP_10 { "1.0" } else { "1.1" };
    format!("{version} {namespace}")
}

/// Names that `Connection` declares as belonging to the connection, in lower case. A set, since a peer may write tens of
/// thousands of them beside as many fields.
fn named<'a>(values: impl Iterator<Item = &'a [u8]>) -> HashSet<String> {
    let names = values.flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let names = names.filter(|name| !name.is_empty());
    names.map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()).collect()
}

/// A value without control characters: CR and LF would begin another field. Latin-1 where that is possible, as it came in;
/// what has other characters is UTF-8.
fn field_value(value: &str) -> Vec<u8> {
    let kept = || value.trim().chars().filter(|character| *character == '\t' || !character.is_ascii_control());
    match kept().map(u8::try_from).collect() {
        Ok(bytes) => bytes,
        Err(_) => kept().collect::<String>().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proto::hybrid::message::TEXT_MAX;
    use serde_json::json;

    use super::*;

    /// Each field compared with each name would take minutes.
    #[test]
    fn an_answer_full_of_connection_names_and_fields_costs_no_more_than_others() {
        let names = (0..6000).map(|number| format!("{number:x}")).collect::<Vec<_>>().join(",");
        let values = [1; 32].repeat(600);
        let fields = json!({ "Connection": names, "X": values, "1F": "named", "Y": "not named" });
        let said = json!({ "requestId": "r", "statusCode": 200, "responseHeaders": fields });
        let text = json!({ "response": said }).to_string();
        assert!((TEXT_MAX - 4096..=TEXT_MAX).contains(&text.len()), "{}", text.len());
        let Ok(message::Message::Response(answer)) = message::Message::read(&text) else { panic!("no response") };
        let began = Instant::now();
        let response = response(&answer, "ns").unwrap();
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        let headers = response.headers();
        assert_eq!(headers.get_all("x").iter().count(), 19_200);
        assert!(headers.contains_key("y") && !headers.contains_key("1f"));
    }
}
