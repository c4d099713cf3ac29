//! HTTP heads, both ways. What goes to the target is built from nothing: the request's parts are validated as HTTP
//! grammar once more, because what we judged must be what we send (SD-5), and names that are ours, or that would let one
//! side speak for the other, are left out (SD-13).

use std::{fmt::Write, net::IpAddr};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header, uri::PathAndQuery};
use proto::tunnel::{
    failure::{Code, Failure},
    pb::{Field, Head, HttpRequest},
};

use super::naming::Naming;
use crate::policy::{Host, file::Upgrade};

/// Fields of one head; servers take a hundred or so.
pub(super) const FIELDS_MAX: usize = 256;

/// Longest method; there is none beyond 17 characters in the registry.
const METHOD_MAX: usize = 32;

/// Longest name of a protocol to upgrade to; SPDY's and WebSocket's have nine characters.
const UPGRADE_MAX: usize = 32;

/// Fields of an answer's head in all, names and values: it travels as one message, which is gathered in 64 KiB.
const ANSWER_HEAD_MAX: usize = 48 * 1024;

/// Fields that concern one connection only (RFC 9110 section 7.6.1) and must not be in a forwarded head.
pub(super) const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Fields that make some servers act on another method or path than the one that was judged.
const OVERRIDES: &[&str] = &[
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-method",
    "x-original-host",
    "x-original-uri",
    "x-original-url",
    "x-rewrite-url",
    "x-host",
];

/// How many gateways a request has crossed, for a connector that it may come to again: a loop of tunnels must end.
pub const HOPS: &str = "causeway-hops";

/// A request's head, checked.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The caller asks for `https`.
    pub secure: bool,
    /// Target host.
    pub host: Host,
    /// Target port.
    pub port: u16,
    /// Method.
    pub method: Method,
    /// Path and query, as they go to the target.
    pub path: PathAndQuery,
    /// Fields that go to the target.
    pub fields: HeaderMap,
    /// Declared length of the body.
    pub length: Option<u64>,
    /// Gateways that it has crossed, ours included.
    pub hops: u32,
    /// What it asks to upgrade to.
    pub upgrade: Option<Wanted>,
    /// The caller asks for HTTP/2.
    pub h2: bool,
    /// The caller sends the body when it is told to go on, or not at all.
    pub expects: bool,
}

/// An upgrade that a request asks for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// As rules speak of it.
    pub kind: Upgrade,
    /// As the target is asked for it.
    pub protocol: HeaderValue,
}

pub(super) fn invalid(message: impl Into<String>) -> Failure {
    Failure::before_target(Code::InvalidRequest, message)
}

/// Parses host and port of a target.
///
/// # Errors
/// `InvalidRequest`.
pub fn target(host: &str, port: u32) -> Result<(Host, u16), Failure> {
    let host = host.parse::<Host>().map_err(|error| invalid(format!("target host: {error}")))?;
    let port =
        u16::try_from(port).ok().filter(|port| *port != 0).ok_or_else(|| invalid("target port is not 1 to 65535"))?;
    Ok((host, port))
}

/// Checks a request's head.
///
/// # Errors
/// `InvalidRequest`, or `Unsupported` for what is not served.
pub fn check(request: HttpRequest) -> Result<Checked, Failure> {
    let unsupported = |message: &str| Failure::before_target(Code::Unsupported, message);
    let secure = match request.scheme.as_str() {
        "http" => false,
        "https" => true,
        _ => return Err(unsupported("targets are called by http and https only")),
    };
    let h2 = match request.protocol.as_str() {
        "" => false,
        "h2" => true,
        _ => return Err(unsupported("targets speak HTTP/1.1 or h2, nothing else")),
    };
    let (host, port) = target(&request.host, request.port)?;
    let method = check_method(&request.method)?;
    let path = check_path(&request.path)?;
    let upgrade = check_upgrade(&request.upgrade, request.no_body)?;
    if h2 && upgrade.is_some() {
        return Err(invalid("an upgrade, and HTTP/2, which has none"));
    }
    let mut expects = false;
    let mut length = None;
    let mut fields = HeaderMap::with_capacity(request.fields.len().min(FIELDS_MAX) + 6);
    if request.fields.len() > FIELDS_MAX {
        return Err(invalid(format!("more than {FIELDS_MAX} header fields")));
    }
    for field in request.fields {
        let (name, value) = parse_field(field)?;
        match name.as_str() {
            "expect" if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
                return Err(invalid("an expectation other than 100-continue"));
            }
            "expect" => expects = true,
            name if HOP_BY_HOP.contains(&name) => {
                return Err(invalid(format!("header field {name} concerns one connection and cannot be forwarded")));
            }
            "content-length" if length.is_some() => return Err(invalid("several Content-Length fields")),
            "content-length" => length = Some(check_length(&value)?),
            name if is_dropped(name) => {}
            _ => {
                fields.append(name, value);
            }
        }
    }
    if request.no_body && length.is_some_and(|length| length > 0) {
        return Err(invalid("a Content-Length, but no body"));
    }
    if request.no_body {
        length = Some(0);
    }
    if expects && length != Some(0) {
        fields.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
    } else {
        expects = false;
    }
    Ok(Checked { secure, host, port, method, path, fields, length, hops: 1, upgrade, h2, expects })
}

/// A field as HTTP has it.
pub(super) fn parse_field(field: Field) -> Result<(HeaderName, HeaderValue), Failure> {
    let name =
        HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| invalid("a header field name is not a token"))?;
    let value = HeaderValue::from_maybe_shared(field.value)
        .map_err(|_| invalid(format!("the value of header field {name} has control characters")))?;
    Ok((name, value))
}

/// What a request asks to change to. Versions of HTTP are not it: their requests would go past every check.
pub(super) fn check_upgrade(protocol: &str, no_body: bool) -> Result<Option<Wanted>, Failure> {
    if protocol.is_empty() {
        return Ok(None);
    }
    if !no_body {
        return Err(invalid("an upgrade, and a body"));
    }
    let plain =
        |byte: u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase() && !b"\"(),:;<=>?@[\\]{}".contains(&byte);
    let value =
        HeaderValue::from_str(protocol).ok().filter(|_| protocol.len() <= UPGRADE_MAX && protocol.bytes().all(plain));
    let Some(value) = value else {
        return Err(invalid("the upgrade is not one lower-case protocol name"));
    };
    let kind = match protocol.split('/').next().unwrap_or_default() {
        "websocket" => Upgrade::Websocket,
        "spdy" => Upgrade::Spdy,
        "h2" | "h2c" | "http" | "tls" => {
            return Err(invalid(format!("{protocol} is no protocol that a request can be upgraded to here")));
        }
        _ => Upgrade::Other,
    };
    Ok(Some(Wanted { kind, protocol: value }))
}

pub(super) fn check_method(method: &str) -> Result<Method, Failure> {
    if method.len() > METHOD_MAX {
        return Err(invalid("the method is too long"));
    }
    match Method::from_bytes(method.as_bytes()) {
        Ok(Method::CONNECT) => Err(invalid("CONNECT is not forwarded; open a TCP stream instead")),
        Ok(method) => Ok(method),
        Err(_) => Err(invalid("the method is not a token")),
    }
}

/// Origin form only, ASCII without spaces and control characters.
pub(super) fn check_path(path: &str) -> Result<PathAndQuery, Failure> {
    if !path.starts_with('/') {
        return Err(invalid("the path is not in origin form: it begins with `/`"));
    }
    if !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(invalid("the path has spaces, control characters, a fragment or characters outside of ASCII"));
    }
    match path.parse::<PathAndQuery>() {
        Ok(parsed) if parsed.as_str() == path => Ok(parsed),
        _ => Err(invalid("the path has characters that no URI has")),
    }
}

pub(super) fn check_length(value: &HeaderValue) -> Result<u64, Failure> {
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).ok_or_else(|| invalid("Content-Length is not a number"))
}

/// Fields that never go to a target as the caller wrote them. Some servers read `_` as `-`, so we do as well.
pub(super) fn is_dropped(name: &str) -> bool {
    let dashed = if name.contains('_') { name.replace('_', "-") } else { String::new() };
    let name = if dashed.is_empty() { name } else { dashed.as_str() };
    name.starts_with("causeway-")
        || name.starts_with("x-forwarded-")
        || matches!(name, "forwarded" | "x-forwarded" | "x-real-ip" | "x-client-ip" | "host")
        || OVERRIDES.contains(&name)
        // A hop-by-hop or length field in disguise.
        || (!dashed.is_empty() && (HOP_BY_HOP.contains(&name) || matches!(name, "content-length" | "expect")))
}

/// Whether a field is one that an owner may have written by the gateway: none that HTTP or the gateway itself needs.
pub fn is_free(name: &HeaderName) -> bool {
    let name = name.as_str();
    let framing = matches!(name, "content-length" | "content-type" | "expect" | "trailer" | "cookie" | "authorization");
    !framing && !HOP_BY_HOP.contains(&name) && !is_dropped(name)
}

impl Checked {
    /// Whether it is a gRPC call, which only HTTP/2 carries.
    pub fn is_grpc(&self) -> bool {
        let kind = self.fields.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        kind.and_then(|kind| kind.strip_prefix(b"application/grpc"))
            .is_some_and(|rest| matches!(rest, [] | [b'+' | b';' | b' ', ..]))
    }

    /// The request as it goes to the target in HTTP/1.1, without the fields of one connection. `peer` is whom the tunnel is from.
    pub fn request<B>(&self, body: B, peer: IpAddr, trace: Option<&HeaderValue>) -> http::Request<B> {
        let mut request = http::Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from(self.path.clone());
        let headers = request.headers_mut();
        *headers = self.fields.clone();
        let mut host = self.host.to_string();
        if self.port != if self.secure { 443 } else { 80 } {
            // Writing to a string does not fail.
            let _ = write!(host, ":{}", self.port);
        }
        let node = match peer.to_canonical() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("\"[{ip}]\""),
        };
        let scheme = if self.secure { "https" } else { "http" };
        let forwarded = format!("for={node};host=\"{host}\";proto={scheme}");
        let ours = [
            (header::HOST, host.clone()),
            (header::FORWARDED, forwarded),
            (HeaderName::from_static("x-forwarded-for"), peer.to_canonical().to_string()),
            (HeaderName::from_static("x-forwarded-host"), host),
            (HeaderName::from_static("x-forwarded-proto"), scheme.to_owned()),
            (HeaderName::from_static("x-real-ip"), peer.to_canonical().to_string()),
            (HeaderName::from_static(HOPS), self.hops.to_string()),
        ];
        for (name, value) in ours {
            headers.insert(name, HeaderValue::try_from(value).expect("made of host names and addresses"));
        }
        // Metadata comes from the hop before, a field from further away.
        if let Some(trace) = trace {
            headers.insert("traceparent", trace.clone());
        }
        // Without it some servers wait for a body that never comes.
        if self.length == Some(0)
            && !matches!(self.method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
        {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        request
    }

    /// Whether sending it twice is as good as sending it once, and possible (RFC 9110 section 9.2.1).
    pub fn may_repeat(&self) -> bool {
        self.length == Some(0) && matches!(self.method, Method::GET | Method::HEAD | Method::OPTIONS)
    }
}

/// The fields that `Connection` names, lower-case.
pub(super) fn named(fields: &HeaderMap) -> Vec<String> {
    let values = fields.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|name| name.trim().to_ascii_lowercase()).collect()
}

/// Whether a field says who its sender is, in the words of Kubernetes.
pub(super) fn says_who(name: &str) -> bool {
    let dashed = name.replace('_', "-");
    dashed == "authorization" || dashed.starts_with("impersonate-") || dashed.starts_with("x-remote-")
}

/// The target's answer head as it goes to the caller.
///
/// # Errors
/// `TargetBroken` if it is larger than a message may be.
pub fn answer(status: http::StatusCode, fields: &HeaderMap) -> Result<Head, Failure> {
    let named = named(fields);
    // A length beside a transfer coding counts for nothing and must not be passed on (RFC 9112 section 6.3).
    let void_length = fields.contains_key(header::TRANSFER_ENCODING);
    let dropped = |name: &str| {
        let void = void_length && name == "content-length";
        void || is_ours(name) || HOP_BY_HOP.contains(&name) || named.iter().any(|other| other == name)
    };
    let fields = collect(fields, |name| !dropped(name));
    let size: usize = fields.iter().map(|field| field.name.len() + field.value.len() + 8).sum();
    if size > ANSWER_HEAD_MAX {
        return Err(Failure::after_target(Code::TargetBroken, "the target's answer head is larger than 48 KiB"));
    }
    Ok(Head { status: u32::from(status.as_u16()), fields })
}

/// Trailers of an answer as they go to the caller: without those that RFC 9110 section 6.5.1 forbids.
pub fn trailers(fields: &HeaderMap) -> Vec<Field> {
    let mut kept = collect(fields, |name| !is_forbidden_trailer(name));
    let mut size = 0;
    kept.retain(|field| {
        size += field.name.len() + field.value.len() + 8;
        size <= ANSWER_HEAD_MAX
    });
    kept
}

/// Trailers of a request as they go to the target; none may say who calls in the names that are configured for that.
///
/// # Errors
/// `InvalidRequest` if one is not a field, or may not be a trailer.
pub fn request_trailers(fields: Vec<Field>, naming: &Naming) -> Result<HeaderMap, Failure> {
    let mut map = HeaderMap::new();
    if fields.len() > FIELDS_MAX {
        return Err(Failure::perhaps(Code::InvalidRequest, "too many trailers"));
    }
    for field in fields {
        let bad = || Failure::perhaps(Code::InvalidRequest, "a trailer is not a header field, or may not be a trailer");
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| bad())?;
        let value = HeaderValue::from_maybe_shared(field.value).map_err(|_| bad())?;
        if is_forbidden_trailer(name.as_str()) || naming.takes(&name) {
            return Err(bad());
        }
        map.append(name, value);
    }
    Ok(map)
}

fn is_ours(name: &str) -> bool {
    name.starts_with("causeway-") || (name.contains('_') && name.replace('_', "-").starts_with("causeway-"))
}

fn is_forbidden_trailer(name: &str) -> bool {
    HOP_BY_HOP.contains(&name)
        || is_dropped(name)
        || says_who(name)
        || matches!(
            name,
            "expect"
                | "cache-control"
                | "content-encoding"
                | "content-length"
                | "content-range"
                | "content-type"
                | "cookie"
                | "location"
                | "max-forwards"
                | "set-cookie"
                | "trailer"
                | "www-authenticate"
        )
}

fn collect(fields: &HeaderMap, kept: impl Fn(&str) -> bool) -> Vec<Field> {
    let kept = fields.iter().filter(|(name, _)| kept(name.as_str()));
    kept.map(|(name, value)| Field { name: name.as_str().to_owned(), value: copy(value) }).collect()
}

fn copy(value: &HeaderValue) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(value.as_bytes())
}

#[cfg(test)]
mod tests;
