//! Dialling: the request, and a strict look at the answer.
use std::{
    future::poll_fn,
    io,
    pin::pin,
    task::{Context, Poll},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{HEAD_MAX, HEADERS_MAX, accept_for, has_token, list};

/// Longest reason phrase handed on, in bytes.
const REASON_MAX: usize = 512;

/// Longest `Retry-After` handed on: a peer's number is added to clocks.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

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
        /// `Retry-After` in seconds, if given. A date is not evaluated.
        retry_after: Option<Duration>,
        /// Every field of the answer, as it came.
        headers: Box<HeaderMap>,
    },
    /// 101, but not as RFC 6455 demands.
    #[error("invalid upgrade answer: {0}")]
    Invalid(&'static str),
    /// The address has no host, or a protocol name is not a token.
    #[error("upgrade request cannot be formed")]
    Request(#[from] http::Error),
    /// The transport broke.
    #[error("connection lost during the upgrade")]
    Io(#[from] io::Error),
    /// The answer is not HTTP.
    #[error("answer is not HTTP/1.1")]
    Http(#[source] hyper::Error),
}

impl From<hyper::Error> for UpgradeError {
    fn from(error: hyper::Error) -> Self {
        let source = std::error::Error::source(&error);
        let kind = source.and_then(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
        match kind {
            Some(kind) => Self::Io(io::Error::new(kind, error)),
            None if error.is_incomplete_message() || error.is_closed() || error.is_canceled() => {
                Self::Io(io::Error::new(io::ErrorKind::UnexpectedEof, error))
            }
            None => Self::Http(error),
        }
    }
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
    /// The head of the answer.
    pub headers: HeaderMap,
}

/// Upgrades a connected stream. `uri` gives Host and path; `headers` are added (credentials must be marked sensitive);
/// `protocols` are offered in order. No extension is ever offered. The caller bounds it in time.
pub async fn client<IO>(io: IO, uri: &Uri, headers: HeaderMap, protocols: &[&str]) -> Result<Upgraded<IO>, UpgradeError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let key = fresh_key()?;
    let request = request(uri, headers, protocols, &key)?;
    let (mut sender, mut connection) = http1::Builder::new()
        .max_headers(HEADERS_MAX)
        .max_header_size(HEAD_MAX)
        .max_buf_size(HEAD_MAX)
        .title_case_headers(true)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(io))
        .await?;

    let mut response = pin!(sender.send_request(request));
    let mut open = true;
    let mut response = poll_fn(|cx: &mut Context<'_>| {
        if let Poll::Ready(response) = response.as_mut().poll(cx) {
            return Poll::Ready(response);
        }
        if open && connection.poll_without_shutdown(cx).is_ready() {
            open = false;
        }
        // The connection passes its failure on to the waiting request.
        response.as_mut().poll(cx)
    })
    .await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refused(&mut response));
    }
    let protocol = check_answer(response.headers(), &key, protocols).map_err(UpgradeError::Invalid)?;
    if open {
        poll_fn(|cx| connection.poll_without_shutdown(cx)).await?;
    }
    let headers = response.into_parts().0.headers;
    let parts = connection.into_parts();
    Ok(Upgraded { io: parts.io.into_inner(), read_ahead: BytesMut::from(parts.read_buf), protocol, headers })
}

/// Sixteen random bytes, so that no cache or proxy can have the answer ready (section 4.1).
fn fresh_key() -> io::Result<String> {
    let mut nonce = [0; 16];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| io::Error::other("the system gives no random numbers"))?;
    Ok(BASE64_STANDARD.encode(nonce))
}

fn request(uri: &Uri, headers: HeaderMap, protocols: &[&str], key: &str) -> Result<Request<Empty<Bytes>>, http::Error> {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let mut request = Request::builder().method(Method::GET).uri(target).body(Empty::new())?;
    let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match uri.scheme_str() {
        Some("https" | "wss") => host.strip_suffix(":443").unwrap_or(host),
        Some("http" | "ws") => host.strip_suffix(":80").unwrap_or(host),
        _ => host,
    };
    // An empty authority is no host: http calls it an invalid URI, and so do we.
    http::uri::Authority::try_from(host)?;
    *request.headers_mut() = headers;
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_str(host)?);
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_str(key)?);
    headers.remove(header::SEC_WEBSOCKET_EXTENSIONS);
    headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
    if !protocols.is_empty() {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(&protocols.join(", "))?);
    }
    Ok(request)
}

fn refused(response: &mut Response<Incoming>) -> UpgradeError {
    let status = response.status();
    let phrase = response.extensions().get::<hyper::ext::ReasonPhrase>();
    let reason = match phrase {
        Some(phrase) => String::from_utf8_lossy(phrase.as_bytes()).into_owned(),
        None => status.canonical_reason().unwrap_or_default().to_owned(),
    };
    let mut reason: String = reason.chars().filter(|one| !one.is_control()).collect();
    reason.truncate(reason.floor_char_boundary(REASON_MAX));
    let retry_after = response.headers().get(header::RETRY_AFTER);
    let retry_after = retry_after
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    let headers = Box::new(std::mem::take(response.headers_mut()));
    UpgradeError::Refused { status: status.as_u16(), reason, retry_after, headers }
}

/// The checks of section 4.1 on a 101; gives the chosen protocol.
fn check_answer(headers: &HeaderMap, key: &str, offered: &[&str]) -> Result<Option<String>, &'static str> {
    if !has_token(headers, header::UPGRADE, "websocket") {
        return Err("Upgrade is not websocket");
    }
    if !has_token(headers, header::CONNECTION, "upgrade") {
        return Err("Connection does not say upgrade");
    }
    let mut accepts = headers.get_all(header::SEC_WEBSOCKET_ACCEPT).into_iter();
    match (accepts.next(), accepts.next()) {
        (Some(accept), None) if accept.as_bytes().trim_ascii() == accept_for(key.as_bytes()).as_bytes() => {}
        _ => return Err("Sec-WebSocket-Accept does not answer our key"),
    }
    if headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS) {
        return Err("an extension that was not offered");
    }
    let mut chosen = list(headers, header::SEC_WEBSOCKET_PROTOCOL);
    match (chosen.next(), chosen.next()) {
        (None, _) => Ok(None),
        (Some(one), None) if offered.contains(&one) => Ok(Some(one.to_owned())),
        _ => Err("a protocol that was not offered"),
    }
}
