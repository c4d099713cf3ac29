//! The Kubernetes face: the API server of a cluster, for kubectl and every other client of its kind. It always speaks TLS,
//! with a certificate of the connector's own ([`authority`]), because such clients keep their credentials back without it.
//! Each request is one stream; what the client asks to change to becomes a byte pipe when the API server has agreed, and
//! not before. Failures of ours are told as API servers tell theirs, so that clients show them.

mod answer;
pub(crate) mod authority;
mod outgoing;
mod pipe;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::{BodyExt, Empty, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use proto::tunnel::pb;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use self::{
    answer::Received,
    outgoing::Outgoing,
    pipe::{Halves, Pipe},
};
use super::{
    Face,
    http::{Body, Download, HEAD_DEADLINE, HEAD_MAX, exchange, notice, unopened},
    refusal::Refusal,
    socket::Socket,
    upload::Upload,
};
use crate::connect::{
    access::Access,
    clusters::Lead,
    tunnels::{ATTEMPTS_MAX, Stream, is_repeatable},
};

/// A client on this machine or near it has finished its handshake by then.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A pipe that this connection becomes when HTTP is done with it.
type Slot = Arc<Mutex<Option<Pipe>>>;

/// Serves one client connection.
pub(super) async fn serve(face: Arc<Face>, client: Socket) {
    // Every face of this kind has one.
    let Some(tls) = &face.tls else { return };
    let session = match timeout(HANDSHAKE, TlsAcceptor::from(Arc::clone(tls)).accept(client)).await {
        Ok(Ok(session)) => session,
        Ok(Err(error)) => {
            return tracing::debug!(address = %face.address, %error, "a client's TLS failed");
        }
        Err(_) => return tracing::debug!(address = %face.address, "a client's TLS was not finished in time"),
    };
    let slot = Slot::default();
    let service = service_fn(|request| {
        let (face, slot) = (Arc::clone(&face), Arc::clone(&slot));
        async move { Ok::<_, Infallible>(serve_one(face, request, slot).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE).max_header_size(HEAD_MAX);
    let connection = http.serve_connection(TokioIo::new(session), service).with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        biased;
        () = face.shutdown.forced() => return,
        () = face.shutdown.lingered() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                biased;
                () = face.shutdown.forced() => return,
                ended = connection.as_mut() => ended,
            }
        }
        ended = connection.as_mut() => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(address = %face.address, %error, "client connection ended early");
    }
    let pipe = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(pipe) = pipe {
        // The pipe is this connection still, so that draining waits for it.
        tokio::select! {
            biased;
            () = face.shutdown.forced() => {}
            () = pipe.run() => {}
        }
    }
}

/// Answers one request, whatever happens.
async fn serve_one(face: Arc<Face>, request: Request<Incoming>, slot: Slot) -> Response<Body> {
    let mut access = face.access_of(request.headers());
    access.asks(request.method(), request.uri().path());
    match forward(&face, request, access, &slot).await {
        Ok(response) => response,
        Err((refusal, mut access)) => {
            access.answered(Some(refusal.status.as_u16()));
            access.failed(&refusal.failure, refusal.by);
            answer::status(&refusal, access.stream, access.cluster())
                .map(|text| Full::new(text).map_err(|never| match never {}).boxed_unsync())
        }
    }
}

type Refused = (Refusal, Access);

async fn forward(
    face: &Arc<Face>,
    mut request: Request<Incoming>,
    mut access: Access,
    slot: &Slot,
) -> Result<Response<Body>, Refused> {
    let upgraded = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let read = face.guard.check(&parts.uri, &parts.headers).and_then(|()| face.lead(&parts.uri, &parts.headers));
    let lead = match read {
        Ok(lead) => lead,
        Err(refusal) => return Err((refusal, access)),
    };
    access.leads_to(&lead);
    let no_body = body.is_end_stream();
    let outgoing = match Outgoing::read(&parts, face.speaks, no_body) {
        Ok(outgoing) => outgoing,
        Err(refusal) => return Err((refusal, access)),
    };
    if let Some(protocol) = outgoing.upgrade() {
        let received = match ask_for_pipe(face, &outgoing, &lead, &mut access).await {
            Ok(received) => received,
            Err(refusal) => return Err((refusal, access)),
        };
        return Ok(match received {
            (Received::Switched(fields), halves) => {
                access.answered(Some(StatusCode::SWITCHING_PROTOCOLS.as_u16()));
                let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                *response.headers_mut() = fields;
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                response.headers_mut().insert(header::UPGRADE, protocol.clone());
                let pipe = Pipe { upgraded, halves, access };
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(pipe);
                response
            }
            (Received::Plain(head), Halves { mut sender, receiver }) => {
                // What the client has sent ahead of the answer belonged to the pipe, not to HTTP.
                let _ = sender.fin(pb::Fin::default()).await;
                access.answered(Some(head.0.as_u16()));
                let download = Download::new(Arc::clone(face), receiver, None, &head, false, false);
                let mut response = Response::new(download.into_body(access));
                (*response.status_mut(), *response.headers_mut()) = head;
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                response
            }
        });
    }
    let upload = (!no_body).then(|| Upload::new(body, Arc::clone(&access.sent), access.blocked_to_target.clone()));
    let mut attempt = 1;
    loop {
        let stream = match lead.tunnels.open(|| access.traced(outgoing.open(access.stream))).await {
            Ok(stream) => stream,
            Err(failure) => return Err((unopened(failure), access)),
        };
        access.carried_by(stream.tunnel.id, stream.tunnel.way);
        match exchange(face, stream, upload.clone()).await {
            Ok((head, receiver, sending)) => {
                access.answered(Some(head.0.as_u16()));
                let bodiless =
                    parts.method == Method::HEAD || matches!(head.0, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
                let download = Download::new(Arc::clone(face), receiver, sending, &head, bodiless, false);
                let mut response = Response::new(download.into_body(access));
                (*response.status_mut(), *response.headers_mut()) = head;
                return Ok(response);
            }
            Err(failure)
                if is_repeatable(&failure)
                    && attempt < ATTEMPTS_MAX
                    && upload.as_ref().is_none_or(Upload::can_repeat) =>
            {
                attempt += 1;
            }
            Err(failure) => return Err((failure.into(), access)),
        }
    }
}

/// Opens a stream that asks for a pipe, and waits for the answer's head.
async fn ask_for_pipe(
    face: &Face,
    outgoing: &Outgoing<'_>,
    lead: &Lead,
    access: &mut Access,
) -> Result<(Received, Halves), Refusal> {
    let mut attempt = 1;
    loop {
        let Stream { tunnel, sender, mut receiver } =
            lead.tunnels.open(|| access.traced(outgoing.open(access.stream))).await.map_err(unopened)?;
        access.carried_by(tunnel.id, tunnel.way);
        match answer::receive(&mut receiver).await {
            Ok(received) => return Ok((received, Halves { sender, receiver })),
            Err(failure) if is_repeatable(&failure) && attempt < ATTEMPTS_MAX => attempt += 1,
            Err(failure) => {
                notice(&failure, face, &tunnel);
                return Err(failure.into());
            }
        }
    }
}

#[cfg(test)]
mod tests;
