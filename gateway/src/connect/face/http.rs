//! The HTTP face: each request is one stream. Bodies flow both ways as they come, and what the target sends is written
//! at once. A failure before the answer becomes an answer of ours; after it, the connection breaks, so that nobody takes
//! a cut for an end.
use std::{convert::Infallible, sync::Arc, time::Duration};

use super::{
    Face,
    head::{self, Head, Outgoing},
    refusal::{By, Refusal},
    socket::Socket,
    upload::Upload,
};
use crate::connect::{
    access::Access,
    tunnels::{ATTEMPTS_MAX, Stream, is_repeatable},
};
use ::http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use bytes::Bytes;
use http_body::Body as _;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use proto::tunnel::{
    failure::{Code, Failure},
    pb,
    receive::Receiver,
};

mod download;

pub(super) use download::Download;

/// A request's head must be complete within this time after the connection became idle; it also ends idle connections.
pub(super) const HEAD_DEADLINE: Duration = Duration::from_secs(75);
/// Largest request head: it must fit into one message of the tunnel, 64 KiB, whose framing of a field is a little longer.
pub(super) const HEAD_MAX: usize = 48 * 1024;

/// Bodies of answers, ours and the targets'.
pub(super) type Body = UnsyncBoxBody<Bytes, Failure>;

/// Serves one client connection.
pub(super) async fn serve(face: Arc<Face>, client: Socket) {
    let service = service_fn(|request| {
        let face = Arc::clone(&face);
        async move {
            let mut response = answer(Arc::clone(&face), request).await;
            if face.shutdown.is_draining() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE).max_header_size(HEAD_MAX);
    let connection = http.serve_connection(TokioIo::new(client), service);
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
}

/// Answers one request, whatever happens.
async fn answer(face: Arc<Face>, request: Request<Incoming>) -> Response<Body> {
    let mut access = face.access();
    let (parts, body) = request.into_parts();
    access.asks(&parts.method, parts.uri.path());
    match forward(&face, &parts, body, &mut access).await {
        Ok((head, download)) => {
            let mut response = Response::new(download.into_body(access));
            (*response.status_mut(), *response.headers_mut()) = head;
            response
        }
        Err(refusal) => {
            access.answered(Some(refusal.status.as_u16()));
            access.failed(&refusal.failure, refusal.by);
            refusal
                .answer(access.stream, access.cluster())
                .map(|text| Full::new(text).map_err(|never| match never {}).boxed_unsync())
        }
    }
}

/// Opens the stream, starts the body on its way, and waits for the answer's head.
async fn forward(
    face: &Arc<Face>,
    parts: &Parts,
    body: Incoming,
    access: &mut Access,
) -> Result<(Head, Download), Refusal> {
    face.guard.check(&parts.uri, &parts.headers)?;
    let lead = face.lead(&parts.uri, &parts.headers)?;
    access.leads_to(&lead);
    let no_body = body.is_end_stream();
    let outgoing = Outgoing::read(parts, face.speaks, no_body)?;
    let upload = (!no_body).then(|| Upload::new(body, Arc::clone(&access.sent)));
    let mut attempt = 1;
    loop {
        let stream = lead.tunnels.open(|| outgoing.open(&lead.target, access.stream)).await.map_err(unopened)?;
        access.carried_by(stream.tunnel.id, stream.tunnel.way);
        match exchange(face, stream, upload.clone()).await {
            Ok((head, receiver, sending)) => {
                access.answered(Some(head.0.as_u16()));
                let bodiless =
                    parts.method == Method::HEAD || matches!(head.0, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
                return Ok((head.clone(), Download::new(Arc::clone(face), receiver, sending, &head, bodiless)));
            }
            Err(failure)
                if is_repeatable(&failure)
                    && attempt < ATTEMPTS_MAX
                    && upload.as_ref().is_none_or(Upload::can_repeat) =>
            {
                attempt += 1;
            }
            Err(failure) => return Err(failure.into()),
        }
    }
}

/// No stream came about. Whatever the reason, it was found here.
pub(super) fn unopened(failure: Failure) -> Refusal {
    let mut refusal = Refusal::from(failure);
    refusal.by = By::Connector;
    refusal
}

/// The body still on its way when the answer has begun; dropping it breaks the stream off.
pub(super) type Sending = Option<tokio_util::sync::DropGuard>;

/// Sends the request until the answer's head is there.
pub(super) async fn exchange(
    face: &Face,
    stream: Stream,
    upload: Option<Upload<Incoming>>,
) -> Result<(Head, Receiver<pb::ForwardResponse>, Sending), Failure> {
    let Stream { tunnel, mut sender, mut receiver } = stream;
    let Some(upload) = upload else {
        // A failure is told by the receiving half, too, and better.
        let _ = sender.fin(pb::Fin::default()).await;
        let head = head::receive(&mut receiver).await.inspect_err(|failure| notice(failure, face, &tunnel))?;
        return Ok((head, receiver, None));
    };
    let mut sending = Box::pin(upload.clone().send(sender));
    let mut done = None;
    let head = {
        let waiting = head::receive(&mut receiver);
        tokio::pin!(waiting);
        loop {
            tokio::select! {
                biased;
                head = &mut waiting => break head,
                ended = &mut sending, if done.is_none() => done = Some(ended),
            }
        }
    };
    let head = head.inspect_err(|failure| notice(failure, face, &tunnel))?;
    upload.commit();
    if done.is_some() {
        return Ok((head, receiver, None));
    }
    let stop = tokio_util::sync::CancellationToken::new();
    let (stopped, shutdown) = (stop.clone(), face.shutdown.clone());
    face.shutdown.spawn(async move {
        tokio::select! {
            biased;
            () = shutdown.forced() => {}
            () = stopped.cancelled() => {}
            // What went wrong with it is seen by the half that receives.
            _ = sending => {}
        }
    });
    Ok((head, receiver, Some(stop.drop_guard())))
}

/// A gateway that no longer knows us is told again who we are; callers' tokens are their own affair.
pub(super) fn notice(failure: &Failure, face: &Face, tunnel: &crate::connect::tunnels::Tunnel) {
    if failure.code == Code::Unauthenticated && face.speaks == crate::connect::config::Speaks::Connector {
        tunnel.renew_actor();
    }
}
