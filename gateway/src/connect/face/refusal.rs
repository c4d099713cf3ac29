//! Answers that we make ourselves: a JSON text that says what failed, who decided, whether the target saw it, and what
//! to do next; with a field `causeway-error` that no target can forge (SD-13).
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use proto::tunnel::failure::{Code, Failure};
use serde::Serialize;

use crate::connect::stream_id::StreamId;

/// A failure on its way to a plain HTTP client.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) failure: Failure,
    /// Who decided.
    pub(crate) by: By,
    remedy: Option<&'static str>,
    /// Scheme by which a proxy's client may show who it is.
    challenge: Option<&'static str>,
}

/// Whose decision a failure was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// This process.
    Connector,
    /// The gateway of the cluster.
    Gateway,
}

/// The JSON text.
#[derive(Debug, Serialize)]
struct Text<'a> {
    code: &'static str,
    message: &'a str,
    remedy: &'a str,
    stream_id: &'a str,
    decided_by: String,
    reached_target: &'static str,
}

impl By {
    /// Who decided on a failure that a tunnel gave: a lost tunnel speaks for nobody but ourselves.
    pub(crate) fn of(failure: &Failure) -> Self {
        match failure.code {
            Code::TunnelLost | Code::Cancelled => Self::Connector,
            _ => Self::Gateway,
        }
    }

    /// As people read it.
    pub(crate) fn shown(self, cluster: &str) -> String {
        match self {
            Self::Connector => "connector".to_owned(),
            Self::Gateway => format!("gateway {cluster}"),
        }
    }
}

impl Refusal {
    fn here(status: StatusCode, code: Code, message: impl Into<String>, remedy: Option<&'static str>) -> Self {
        Self { status, failure: Failure::before_target(code, message), by: By::Connector, remedy, challenge: None }
    }

    /// The request breaks HTTP or this face's rules.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::here(StatusCode::BAD_REQUEST, Code::InvalidRequest, message, None)
    }

    /// Understood, not served.
    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::here(StatusCode::NOT_IMPLEMENTED, Code::Unsupported, message, None)
    }

    /// No token came with the request.
    pub(crate) fn unauthenticated(message: impl Into<String>) -> Self {
        let remedy =
            "send `Authorization: Bearer <token>`, or `Causeway-Authorization` if the application needs its own";
        Self::here(StatusCode::UNAUTHORIZED, Code::Unauthenticated, message, Some(remedy))
    }

    /// `Host` names something that this face is not.
    pub(crate) fn misdirected(host: &str) -> Self {
        let remedy = "use a listed host name, or add this one to the face's `hosts`";
        let message = format!("this port does not answer to the host name `{host}`");
        Self::here(StatusCode::FORBIDDEN, Code::InvalidRequest, message, Some(remedy))
    }

    /// A failure that was found here.
    pub(crate) fn ours(failure: Failure) -> Self {
        Self { by: By::Connector, ..Self::from(failure) }
    }

    /// Its head is larger than any that is taken.
    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::here(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Code::InvalidRequest, message, None)
    }

    /// It did not come in time.
    pub(crate) fn too_slow(message: impl Into<String>) -> Self {
        Self::here(StatusCode::REQUEST_TIMEOUT, Code::InvalidRequest, message, None)
    }

    /// A proxy face wants to know who asks, by this scheme.
    pub(crate) fn proxy_login(scheme: &'static str, message: &'static str) -> Self {
        let remedy = "send what the message names in `Proxy-Authorization`";
        let refusal =
            Self::here(StatusCode::PROXY_AUTHENTICATION_REQUIRED, Code::Unauthenticated, message, Some(remedy));
        Self { challenge: Some(scheme), ..refusal }
    }

    /// The same, said by a face that carries bytes, not requests.
    pub(crate) fn over_bytes(mut self) -> Self {
        if self.failure.code == Code::InvalidRequest && self.status == StatusCode::FORBIDDEN {
            self.remedy =
                Some("use an http face, or write `allow_http: true` on this one if browsers are meant to use it");
        }
        self
    }

    /// No route of the face fits.
    pub(crate) fn unrouted() -> Self {
        let remedy = "use a host name and a path that one of the face's `routes` names";
        Self::here(StatusCode::NOT_FOUND, Code::InvalidRequest, "no route of this port fits the request", Some(remedy))
    }

    /// A browser sent it for a web page.
    pub(crate) fn from_web_page(message: impl Into<String>) -> Self {
        let remedy = "call this port from a program, not from a page in a browser";
        Self::here(StatusCode::FORBIDDEN, Code::InvalidRequest, message, Some(remedy))
    }

    /// The next thing to do.
    pub(crate) fn remedy(&self) -> &'static str {
        self.remedy.unwrap_or_else(|| self.failure.code.remedy())
    }

    /// The answer.
    pub(crate) fn answer(&self, stream: StreamId, cluster: &str) -> Response<Bytes> {
        let text = Text {
            code: self.failure.code.name(),
            message: &self.failure.message,
            remedy: self.remedy(),
            stream_id: stream.as_str(),
            decided_by: self.by.shown(cluster),
            reached_target: self.failure.reached.name(),
        };
        let mut body = serde_json::to_vec(&text).unwrap_or_default();
        body.push(b'\n');
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = self.status;
        let fields = response.headers_mut();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        fields.insert("causeway-error", HeaderValue::from_static(self.failure.code.name()));
        if self.status == StatusCode::UNAUTHORIZED {
            fields.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(scheme) = self.challenge {
            fields.insert(header::PROXY_AUTHENTICATE, HeaderValue::from_static(scheme));
        }
        response
    }

    /// The answer to a gRPC call: its status, and the details that say who decided.
    pub(crate) fn grpc(&self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        let fields = response.headers_mut();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        fields.extend(grpc_status(&self.failure));
        fields.insert("causeway-error", HeaderValue::from_static(self.failure.code.name()));
        response
    }

    /// The answer as bytes of HTTP/1.1, for faces whose connection ends with it.
    pub(crate) fn plain(&self, stream: StreamId, cluster: &str) -> Vec<u8> {
        let (parts, body) = self.answer(stream, cluster).into_parts();
        let reason = parts.status.canonical_reason().unwrap_or("Refused");
        let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", parts.status.as_u16()).into_bytes();
        for (name, value) in &parts.headers {
            for piece in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                bytes.extend_from_slice(piece);
            }
        }
        bytes.extend_from_slice(format!("content-length: {}\r\nconnection: close\r\n\r\n", body.len()).as_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }
}

/// Whether these are the fields of a gRPC call; not of gRPC-Web, which is plain HTTP.
pub(super) fn is_grpc(fields: &HeaderMap) -> bool {
    let kind = fields.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.and_then(|kind| kind.strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest, [] | [b'+' | b';' | b' ', ..]))
}

/// A failure as the status of a gRPC call.
pub(super) fn grpc_status(failure: &Failure) -> HeaderMap {
    let mut fields = HeaderMap::new();
    let status = tonic::Status::from(failure.clone());
    if status.add_header(&mut fields).is_err() {
        // Never: every text is written so that it can travel. A status there must be.
        fields.insert("grpc-status", HeaderValue::from(failure.code.grpc() as i32));
    }
    fields
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self { status: failure.code.http_status(), by: By::of(&failure), failure, remedy: None, challenge: None }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn an_answer_of_ours_says_everything_once() {
        let refusal = Refusal::from(Failure::before_target(Code::PolicyDenied, "no rule for entra/7d5c"));
        let stream = StreamId::new(SystemTime::UNIX_EPOCH);
        let answer = refusal.answer(stream, "factory-a");
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
        assert_eq!(answer.headers()["causeway-error"], "policy_denied");
        let text: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!(text["code"], "policy_denied");
        assert_eq!(text["message"], "no rule for entra/7d5c");
        assert_eq!(text["decided_by"], "gateway factory-a");
        assert_eq!(text["reached_target"], "no");
        assert_eq!(text["stream_id"], stream.as_str());
        assert!(!text["remedy"].as_str().unwrap().is_empty());
    }

    #[test]
    fn a_missing_token_is_asked_for() {
        let answer = Refusal::unauthenticated("no token").answer(StreamId::new(SystemTime::UNIX_EPOCH), "a");
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(answer.headers()[header::WWW_AUTHENTICATE], "Bearer");
    }
}
