//! `CONNECT` (RFC 9110 section 9.3.6): one request, a strict and bounded look at the answer, and the transport back with
//! every byte that came behind it. hyper reads and writes the heads; the caller bounds it in time.
use std::{
    future::poll_fn,
    io,
    pin::pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::{client::conn::http1, ext::ReasonPhrase};
use hyper_util::rt::TokioIo;
use proto::{
    hybrid::status::clean,
    ws::handshake::{HEAD_MAX, HEADERS_MAX},
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::ProxyError;

/// Longest reason phrase of a proxy that is repeated.
const REASON_SHOWN: usize = 128;

/// Most authentication schemes of a proxy that are repeated.
const SCHEMES_SHOWN: usize = 5;

/// What proxies are told about who asks.
const AGENT: &str = concat!("causeway/", env!("CARGO_PKG_VERSION"));

/// Why there is no tunnel, before it is known through whom.
#[derive(Debug)]
pub(super) enum Refusal {
    Answer { status: StatusCode, reason: String, schemes: Vec<String> },
    Broken(io::Error),
    NotHttp(hyper::Error),
}

impl Refusal {
    pub(super) fn of(self, proxy: String, authority: String, has_login: bool) -> ProxyError {
        match self {
            Self::Answer { status: StatusCode::PROXY_AUTHENTICATION_REQUIRED, schemes, .. } => {
                let is_basic = schemes.iter().any(|scheme| scheme.eq_ignore_ascii_case("basic"));
                match (is_basic || schemes.is_empty(), has_login) {
                    (false, _) => ProxyError::Scheme { proxy, offered: schemes.join(", ") },
                    (true, false) => ProxyError::LoginWanted { proxy },
                    (true, true) => ProxyError::LoginRefused { proxy },
                }
            }
            Self::Answer { status, reason, .. } => {
                ProxyError::Refused { proxy, authority, status: status.as_u16(), reason }
            }
            Self::Broken(source) => ProxyError::Broken { proxy, source },
            Self::NotHttp(source) => ProxyError::NotHttp { proxy, source },
        }
    }
}

impl From<hyper::Error> for Refusal {
    fn from(error: hyper::Error) -> Self {
        let source = std::error::Error::source(&error);
        let kind = source.and_then(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
        match kind {
            Some(kind) => Self::Broken(io::Error::new(kind, error)),
            None if error.is_incomplete_message() || error.is_closed() || error.is_canceled() => {
                Self::Broken(io::Error::new(io::ErrorKind::UnexpectedEof, error))
            }
            None => Self::NotHttp(error),
        }
    }
}

/// Asks for a tunnel to `authority`.
pub(super) async fn ask<IO>(io: IO, authority: &str, login: Option<HeaderValue>) -> Result<(IO, BytesMut), Refusal>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = request(authority, login).map_err(|error| Refusal::Broken(io::Error::other(error)))?;
    let (mut sender, mut connection) = http1::Builder::new()
        .max_headers(HEADERS_MAX)
        .max_header_size(HEAD_MAX)
        .max_buf_size(HEAD_MAX)
        .title_case_headers(true)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(io))
        .await?;
    let mut response = pin!(sender.send_request(request));
    let mut open = true;
    let response = poll_fn(|cx: &mut Context<'_>| {
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
    if response.status() != StatusCode::OK {
        let phrase =
            response.extensions().get::<ReasonPhrase>().map(|phrase| String::from_utf8_lossy(phrase.as_bytes()));
        let reason = phrase.as_deref().or(response.status().canonical_reason()).unwrap_or_default();
        return Err(Refusal::Answer {
            status: response.status(),
            reason: clean(reason, REASON_SHOWN),
            schemes: schemes(response.headers()),
        });
    }
    if open {
        poll_fn(|cx| connection.poll_without_shutdown(cx)).await?;
    }
    let parts = connection.into_parts();
    Ok((parts.io.into_inner(), BytesMut::from(parts.read_buf)))
}

fn request(authority: &str, login: Option<HeaderValue>) -> Result<Request<Empty<Bytes>>, http::Error> {
    let target = Uri::builder().authority(authority).build()?;
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(target)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, AGENT)
        .body(Empty::new())?;
    if let Some(login) = login {
        request.headers_mut().insert(header::PROXY_AUTHORIZATION, login);
    }
    Ok(request)
}

/// The schemes of the challenges, over all lines: in `Negotiate, Basic realm="a, b"` the words before a space or comma
/// that are no parameter.
fn schemes(headers: &HeaderMap) -> Vec<String> {
    let challenges = headers.get_all(header::PROXY_AUTHENTICATE).into_iter().filter_map(|value| value.to_str().ok());
    let words = challenges.flat_map(|value| value.split(',')).filter_map(|part| part.split_whitespace().next());
    let is_scheme =
        |word: &&str| word.len() <= 32 && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    words.filter(is_scheme).take(SCHEMES_SHOWN).map(str::to_owned).collect()
}
