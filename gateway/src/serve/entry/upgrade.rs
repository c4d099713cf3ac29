//! The one HTTP request that the tunnel port takes: the WebSocket upgrade on its fixed path. Whatever else comes gets an
//! empty answer without a banner, and the connection ends.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::Empty;
use hyper::{body::Incoming, server::conn::http1, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use proto::{
    tunnel::{SUBPROTOCOL, UPGRADE_PATH},
    ws::handshake::{self, RequestError},
};

use super::{Io, Refusal, peeked::ALLOWANCE};

type Answer = Response<Empty<Bytes>>;

/// What the one request came to.
type Outcome = Result<OnUpgrade, Refusal>;

/// Answers the upgrade request; gives the connection behind it and the bytes that came after the request's head.
///
/// # Errors
/// When it is another request, which has been answered, or none at all.
pub(super) async fn accept(io: Io) -> Result<(Io, BytesMut), Refusal> {
    match answer(io, true).await {
        (Some(Ok(upgrade)), _) => {
            let upgraded = upgrade.await.map_err(Refusal::Http)?;
            handshake::into_parts(upgraded).ok_or(Refusal::Closed)
        }
        (Some(Err(refusal)), _) => Err(refusal),
        (None, Err(error)) => Err(Refusal::Http(error)),
        (None, Ok(())) => Err(Refusal::Closed),
    }
}

/// Answers whatever request comes with 404.
pub(super) async fn refuse(io: Io) {
    // How it ends does not matter: it is refused either way, and the log says so.
    let _ = answer(io, false).await;
}

async fn answer(io: Io, upgrades: bool) -> (Option<Outcome>, hyper::Result<()>) {
    let outcome = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&outcome);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = match if upgrades { judge(&request) } else { Err((StatusCode::NOT_FOUND, "cleartext")) } {
            // A connection carries one request: a second one, pipelined behind an answered one, is not looked at.
            Ok(accept) if slot.is_none() => {
                *slot = Some(Ok(hyper::upgrade::on(&mut request)));
                handshake::switching(accept, Some(SUBPROTOCOL))
            }
            Ok(_) => refusal(StatusCode::NOT_FOUND),
            Err((status, reason)) => {
                slot.get_or_insert(Err(Refusal::Request { status: status.as_u16(), reason }));
                refusal(status)
            }
        };
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .auto_date_header(false)
        .max_buf_size(ALLOWANCE)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades()
        .await;
    let outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
    (outcome, served)
}

fn refusal(status: StatusCode) -> Answer {
    let mut answer = Answer::default();
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    if status == StatusCode::UPGRADE_REQUIRED {
        answer.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    answer
}

/// Whether a request is the upgrade; if not, what it is answered with and why.
fn judge<B>(request: &Request<B>) -> Result<HeaderValue, (StatusCode, &'static str)> {
    let not_found = |reason| Err((StatusCode::NOT_FOUND, reason));
    if request.uri().path() != UPGRADE_PATH || request.uri().query().is_some() || request.uri().authority().is_some() {
        return not_found("another path");
    }
    if request.method() != Method::GET || request.version() != Version::HTTP_11 {
        return not_found("not a GET of HTTP/1.1");
    }
    // Only browsers send it, and no web page has any business here.
    if request.headers().contains_key(header::ORIGIN) {
        return Err((StatusCode::FORBIDDEN, "it has an Origin"));
    }
    let accept = handshake::check_request(request).map_err(|error| match error {
        RequestError::NotUpgrade => (StatusCode::NOT_FOUND, "not a WebSocket upgrade"),
        RequestError::Version => (StatusCode::UPGRADE_REQUIRED, "another WebSocket version"),
        _ => (StatusCode::BAD_REQUEST, "a malformed WebSocket upgrade"),
    })?;
    let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let mut offered = offered.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    if !offered.any(|name| name.trim() == SUBPROTOCOL) {
        return Err((StatusCode::BAD_REQUEST, "our subprotocol is not offered"));
    }
    Ok(accept)
}
