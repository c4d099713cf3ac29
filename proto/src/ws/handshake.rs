//! The HTTP/1.1 upgrade of both sides (RFC 6455 section 4).
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderMap, Uri};
use tokio::io::{AsyncRead, AsyncWrite};

/// Value of `Sec-WebSocket-Accept` for a request's `Sec-WebSocket-Key`.
pub fn accept_for(key: &[u8]) -> String {
    let _ = key;
    todo!()
}

/// Why a dial did not become a WebSocket.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The server answered with something other than 101.
    #[error("server answered {status} {reason}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Reason phrase, control characters removed, at most 512 bytes.
        reason: String,
        /// `Retry-After` in seconds, if given.
        retry_after: Option<Duration>,
    },
    /// 101, but not as RFC 6455 demands.
    #[error("invalid upgrade answer: {0}")]
    Invalid(&'static str),
    /// The transport broke.
    #[error("connection lost during the upgrade")]
    Io(#[from] std::io::Error),
    /// The answer is not HTTP.
    #[error("answer is not HTTP/1.1")]
    Http(#[from] hyper::Error),
}

/// A completed client upgrade.
#[derive(Debug)]
pub struct Upgraded<IO> {
    /// The connection.
    pub io: IO,
    /// Bytes that came behind the answer's head.
    pub read_ahead: BytesMut,
    /// The subprotocol the server chose.
    pub protocol: Option<String>,
}

/// Upgrades a connected stream. `uri` gives Host and path; `headers` are added (credentials must be marked sensitive);
/// `protocols` are offered in order. No extension is ever offered. The caller bounds it in time.
pub async fn client<IO>(io: IO, uri: &Uri, headers: HeaderMap, protocols: &[&str]) -> Result<Upgraded<IO>, UpgradeError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _ = (io, uri, headers, protocols);
    todo!()
}

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
pub fn check_request<B>(request: &http::Request<B>) -> Result<http::HeaderValue, RequestError> {
    let _ = request;
    todo!()
}

/// The 101 answer; `protocol` only when the client offered it.
pub fn switching<B: Default>(accept: http::HeaderValue, protocol: Option<&str>) -> http::Response<B> {
    let _ = (accept, protocol);
    todo!()
}

/// Takes hyper's upgraded connection apart into the transport given to hyper and the bytes read ahead, so that
/// nothing of hyper stays in memory. `IO` must be the type served.
pub fn into_parts<IO>(upgraded: hyper::upgrade::Upgraded) -> Option<(IO, BytesMut)>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _ = upgraded;
    todo!()
}
