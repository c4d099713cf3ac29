//! Heads between plain HTTP/1.1 and the tunnel's contract: what is taken out, what is refused, where the token goes.
//! Fields that concern one connection stay on it, names beginning `causeway-` are ours in both directions (SD-13).
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use proto::tunnel::{
    failure::{Code, Failure},
    pb::{self, forward_response},
    receive::{Part, Receiver},
};

use super::refusal::Refusal;
use crate::{
    connect::{actor::bearer, config::Speaks, stream_id::StreamId, target::Target},
    serve::target::head::HOPS,
};

/// Fields of one connection (RFC 9110, section 7.6.1), and those that older software treats so.
const CONNECTION_ONLY: &[&str] = &[
    "connection",
    "proxy-connection",
    "keep-alive",
    "te",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "proxy-authenticate",
    "proxy-authorization",
];

/// What a trailer must not say (RFC 9110, section 6.5.1): framing, routing, credentials.
const NEVER_TRAILERS: &[&str] = &[
    "authorization",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "host",
    "set-cookie",
    "trailer",
];

/// Interim answers passed over before the final one; a target that sends more has lost its way.
pub(super) const INTERIM_MAX: usize = 16;

/// Requests from a face, and answers to it: names beginning like this belong to the contract.
const OURS: &str = "causeway-";
/// Where a caller puts its token when the application needs `Authorization` for itself.
const CAUSEWAY_AUTHORIZATION: &str = "causeway-authorization";
/// The name of a stream, in metadata.
pub(super) const STREAM_ID: &str = "causeway-stream-id";

/// A request head that passed, and how to write it as metadata and `open`.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    parts: &'a Parts,
    path: &'a str,
    no_body: bool,
    upgrade: Option<String>,
    subject: Option<HeaderValue>,
    /// The field whose token was used.
    token_field: Option<HeaderName>,
    /// Names that `Connection` lists.
    nominated: Vec<String>,
}

impl<'a> Outgoing<'a> {
    /// Reads a head as it came to a face. The token, where one is needed, is found here and nowhere else.
    pub(crate) fn read(parts: &'a Parts, speaks: Speaks, no_body: bool) -> Result<Self, Refusal> {
        if parts.method == Method::CONNECT {
            return Err(Refusal::unsupported("CONNECT is not served by an http face: use a tcp face"));
        }
        let upgrade = upgrade_wanted(&parts.headers);
        if upgrade.is_some() && !no_body {
            return Err(Refusal::invalid("the request asks to change the protocol, and has a body"));
        }
        let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
        if !path.starts_with('/') {
            return Err(Refusal::invalid("the request target must be a path that begins with `/`"));
        }
        let (subject, token_field) = match speaks {
            Speaks::Connector => (None, None),
            Speaks::Caller => {
                let (token, field) = token(&parts.headers)?;
                (Some(token), Some(field))
            }
        };
        Ok(Self { parts, path, no_body, upgrade, subject, token_field, nominated: nominated(&parts.headers) })
    }

    /// The protocol that the client asks to change to.
    pub(crate) fn upgrade(&self) -> Option<&str> {
        self.upgrade.as_deref()
    }

    /// Whether the client holds its body until it is told to go on.
    pub(super) fn expects(&self) -> bool {
        let expected = self.parts.headers.get(header::EXPECT).map(HeaderValue::as_bytes);
        !self.no_body && expected.is_some_and(|expected| expected.eq_ignore_ascii_case(b"100-continue"))
    }

    /// Metadata and first message of the stream.
    pub(crate) fn open(&self, target: &Target, stream: StreamId) -> (HeaderMap, pb::Open) {
        let mut metadata = with_stream_id(HeaderMap::with_capacity(8), stream);
        if let Some(subject) = &self.subject {
            metadata.insert(header::AUTHORIZATION, subject.clone());
        }
        for name in ["traceparent", "tracestate"] {
            if let Some(value) = self.parts.headers.get(name) {
                metadata.insert(name, value.clone());
            }
        }
        let request = pb::HttpRequest {
            method: self.parts.method.as_str().to_owned(),
            scheme: "http".to_owned(),
            host: target.host.to_string(),
            port: u32::from(target.port),
            path: self.path.to_owned(),
            fields: fields(&self.parts.headers, |name| self.passes(name)),
            no_body: self.no_body,
            upgrade: self.upgrade.clone().unwrap_or_default(),
            ..pb::HttpRequest::default()
        };
        let hops = self.parts.headers.get(HOPS).and_then(|hops| hops.to_str().ok()?.parse().ok()).unwrap_or(0);
        (metadata, pb::Open { target: Some(pb::open::Target::Http(request)), hops })
    }

    fn passes(&self, name: &HeaderName) -> bool {
        let expected = *name == header::EXPECT && self.expects();
        self.token_field.as_ref() != Some(name) && (expected || passes(name, &self.nominated))
    }
}

/// Whether a field of a request goes on, as far as its name says.
pub(super) fn passes(name: &HeaderName, nominated: &[String]) -> bool {
    let text = name.as_str();
    // The gateway writes Host; where the request came from is its word, too. Expect goes on where the body is held.
    let written_there =
        matches!(text, "host" | "expect" | "forwarded" | "x-real-ip") || text.starts_with("x-forwarded-");
    !written_there
        && !CONNECTION_ONLY.contains(&text)
        && !text.starts_with(OURS)
        && !nominated.iter().any(|nominated| nominated == text)
}

/// Metadata that names its stream.
pub(super) fn with_stream_id(mut metadata: HeaderMap, stream: StreamId) -> HeaderMap {
    if let Ok(id) = HeaderValue::from_str(stream.as_str()) {
        metadata.insert(STREAM_ID, id);
    }
    metadata
}

/// Metadata and first message of a TCP stream.
pub(crate) fn open_tcp(target: &Target, stream: StreamId) -> (HeaderMap, pb::Open) {
    let metadata = with_stream_id(HeaderMap::with_capacity(4), stream);
    let tcp = pb::TcpTarget { host: target.host.to_string(), port: u32::from(target.port) };
    (metadata, pb::Open { target: Some(pb::open::Target::Tcp(tcp)), hops: 0 })
}

/// The bearer token of a request, and the field it came in: ours first, so that the application may have its own.
pub(super) fn token(fields: &HeaderMap) -> Result<(HeaderValue, HeaderName), Refusal> {
    for name in [HeaderName::from_static(CAUSEWAY_AUTHORIZATION), header::AUTHORIZATION] {
        let mut values = fields.get_all(&name).iter();
        let Some(value) = values.next() else { continue };
        if values.next().is_some() {
            return Err(Refusal::invalid(format!("the request has several `{name}` fields")));
        }
        let token = value.to_str().ok().and_then(bearer_of).and_then(bearer);
        return match token {
            Some(token) => Ok((token, name)),
            None => Err(Refusal::unauthenticated(format!("`{name}` holds no bearer token"))),
        };
    }
    Err(Refusal::unauthenticated("this port needs the caller's own bearer token with each request"))
}

/// The token of `Bearer <token>`; the scheme's case does not matter (RFC 9110, section 11.1).
pub(super) fn bearer_of(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim_matches(' ');
    let plain = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    (scheme.eq_ignore_ascii_case("bearer") && plain).then_some(token)
}

/// A protocol that the client wants to change to. Clients that merely offer HTTP/2 go on in HTTP/1.1, and a field that
/// `Connection` does not name is none (RFC 9110, section 7.8).
pub(super) fn upgrade_wanted(fields: &HeaderMap) -> Option<String> {
    if !nominated(fields).iter().any(|name| name == "upgrade") {
        return None;
    }
    let values = fields.get_all(header::UPGRADE).iter().filter_map(|value| value.to_str().ok());
    let mut protocols = values.flat_map(|value| value.split(',')).map(|name| name.trim().to_ascii_lowercase());
    protocols.find(|name| !name.is_empty() && name != "h2c" && !name.starts_with("tls/"))
}

/// Names listed by `Connection`, lower-case.
pub(super) fn nominated(fields: &HeaderMap) -> Vec<String> {
    let values = fields.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| !name.is_empty() && name != "close" && name != "keep-alive")
        .collect()
}

pub(super) fn fields(from: &HeaderMap, passes: impl Fn(&HeaderName) -> bool) -> Vec<pb::Field> {
    let mut fields = Vec::with_capacity(from.len());
    for (name, value) in from {
        if passes(name) {
            fields.push(pb::Field { name: name.as_str().to_owned(), value: Bytes::copy_from_slice(value.as_bytes()) });
        }
    }
    fields
}

/// Trailers of a request, as they may travel.
pub(crate) fn request_trailers(trailers: &HeaderMap) -> Vec<pb::Field> {
    fields(trailers, may_trail)
}

fn may_trail(name: &HeaderName) -> bool {
    let text = name.as_str();
    !text.starts_with(OURS) && !CONNECTION_ONLY.contains(&text) && !NEVER_TRAILERS.contains(&text)
}

/// What is wrong with an answer's head or trailers: the gateway broke the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AnswerError {
    #[error("the gateway sent a status that is none")]
    Status,
    #[error("the gateway sent a field that is none")]
    Field,
}

/// An answer's head, for the client.
pub(crate) fn answer(head: &pb::Head) -> Result<Head, AnswerError> {
    let status = u16::try_from(head.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.filter(|status| status.as_u16() <= 599).ok_or(AnswerError::Status)?;
    Ok((status, passing(&head.fields)?))
}

/// The fields of an answer that the client gets.
pub(super) fn passing(fields: &[pb::Field]) -> Result<HeaderMap, AnswerError> {
    let all = header_map(fields)?;
    let nominated = nominated(&all);
    let passes = |name: &HeaderName| {
        let text = name.as_str();
        // What a target says about ports and TLS of its own is not true of ours.
        !matches!(text, "alt-svc" | "strict-transport-security")
            && !text.starts_with(OURS)
            && !CONNECTION_ONLY.contains(&text)
            && !nominated.iter().any(|nominated| nominated == text)
    };
    let mut fields = all;
    let dropped: Vec<HeaderName> = fields.keys().filter(|name| !passes(name)).cloned().collect();
    for name in dropped {
        fields.remove(name);
    }
    Ok(fields)
}

/// Status and fields of an answer, as the client gets them.
pub(crate) type Head = (StatusCode, HeaderMap);

/// Waits for the final head; `heard` is told of interim ones. 101 is final where the request asked for it.
pub(crate) async fn receive(
    receiver: &mut Receiver<pb::ForwardResponse>,
    switch: bool,
    mut heard: impl FnMut(&Head),
) -> Result<Head, Failure> {
    let broken = |message: String| Failure::perhaps(Code::ProtocolError, message);
    for _ in 0..INTERIM_MAX {
        match receiver.next().await {
            Some(Ok(Part::Message(pb::ForwardResponse { part: Some(forward_response::Part::Head(head)) }))) => {
                let head = answer(&head).map_err(|error| broken(error.to_string()))?;
                match head.0 {
                    StatusCode::SWITCHING_PROTOCOLS if !switch => {
                        return Err(broken("the target switched protocols without having been asked".to_owned()));
                    }
                    status if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS => heard(&head),
                    _ => return Ok(head),
                }
            }
            Some(Err(failure)) => return Err(failure),
            Some(Ok(_)) => return Err(broken("the gateway sent something else before the answer's head".to_owned())),
            None => return Err(broken("the gateway ended the stream without an answer".to_owned())),
        }
    }
    Err(broken(format!("the target sent more than {INTERIM_MAX} interim answers")))
}

/// Trailers of an answer for the client.
pub(crate) fn answer_trailers(fin: &pb::Fin) -> Result<HeaderMap, AnswerError> {
    let mut trailers = header_map(&fin.trailers)?;
    let dropped: Vec<HeaderName> = trailers.keys().filter(|name| !may_trail(name)).cloned().collect();
    for name in dropped {
        trailers.remove(name);
    }
    Ok(trailers)
}

fn header_map(fields: &[pb::Field]) -> Result<HeaderMap, AnswerError> {
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| AnswerError::Field)?;
        let value = HeaderValue::from_maybe_shared(field.value.clone()).map_err(|_| AnswerError::Field)?;
        map.append(name, value);
    }
    Ok(map)
}

#[cfg(test)]
mod tests;
