//! Being dialled: the request's checks, the 101, and getting the transport back from hyper.
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{accept_for, has_token, list};

/// Why a request is not a valid WebSocket upgrade; answer 400 (426 for a version).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not an upgrade at all.
    #[error("not a WebSocket upgrade request")]
    NotUpgrade,
    /// `Sec-WebSocket-Version` is not 13.
    #[error("WebSocket version is not 13")]
    Version,
    /// The key is absent or not 16 bytes of base64.
    #[error("Sec-WebSocket-Key is missing or malformed")]
    Key,
}

/// Checks a request head; gives the `Sec-WebSocket-Accept` value for the answer.
pub fn check_request<B>(request: &http::Request<B>) -> Result<HeaderValue, RequestError> {
    let headers = request.headers();
    let upgrade = request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && has_token(headers, header::UPGRADE, "websocket")
        && has_token(headers, header::CONNECTION, "upgrade");
    if !upgrade {
        return Err(RequestError::NotUpgrade);
    }
    if single(headers, header::SEC_WEBSOCKET_VERSION) != Some(b"13") {
        return Err(RequestError::Version);
    }
    let key = single(headers, header::SEC_WEBSOCKET_KEY).ok_or(RequestError::Key)?;
    match BASE64_STANDARD.decode(key) {
        Ok(nonce) if nonce.len() == 16 => {}
        _ => return Err(RequestError::Key),
    }
    HeaderValue::from_str(&accept_for(key)).map_err(|_| RequestError::Key)
}

/// The one value of a header that may not repeat.
fn single(headers: &HeaderMap, name: header::HeaderName) -> Option<&[u8]> {
    let mut values = headers.get_all(name).into_iter();
    let first = values.next()?;
    values.next().is_none().then(|| first.as_bytes().trim_ascii())
}

/// The subprotocols that a client offers, in its order of preference.
pub fn offered_protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    list(headers, header::SEC_WEBSOCKET_PROTOCOL)
}

/// The 101 answer; `protocol` only when the client offered it. A name that is no header value is left out.
pub fn switching<B: Default>(accept: HeaderValue, protocol: Option<&str>) -> Response<B> {
    let mut response = Response::new(B::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = protocol.and_then(|name| HeaderValue::from_str(name).ok()) {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    response
}

/// The answer to a bad request: 400, or 426 naming the version that we speak (section 4.4).
pub fn refusal<B: Default>(error: RequestError) -> Response<B> {
    let mut response = Response::new(B::default());
    *response.status_mut() = match error {
        RequestError::Version => StatusCode::UPGRADE_REQUIRED,
        RequestError::NotUpgrade | RequestError::Key => StatusCode::BAD_REQUEST,
    };
    if error == RequestError::Version {
        response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    response
}

/// Takes hyper's upgraded connection apart into the transport given to hyper and the bytes read ahead, so that
/// nothing of hyper stays in memory. hyper must have been given `TokioIo<IO>`; any other type gives `None`.
pub fn into_parts<IO>(upgraded: hyper::upgrade::Upgraded) -> Option<(IO, BytesMut)>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let parts = upgraded.downcast::<TokioIo<IO>>().ok()?;
    Some((parts.io.into_inner(), BytesMut::from(parts.read_buf)))
}
