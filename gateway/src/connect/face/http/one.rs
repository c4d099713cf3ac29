//! HTTP/1.1 on a face. A connection whose protocol changes becomes a stream of bytes, in the task that served it.
use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::BytesMut;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::{TokioIo, TokioTimer};
use proto::tunnel::failure::{Code, Failure};

use super::{
    Body, HEAD_DEADLINE, HEAD_MAX, Replied, Switched, answer,
    wire::{Interim, Wire},
};
use crate::connect::face::{
    Face,
    carry::{self, Cut},
    refusal::By,
};

/// A connection that is to change its protocol as soon as the answer is written.
struct Change {
    upgrade: OnUpgrade,
    to: Switched,
}

/// Left by the request that changes the protocol, taken when HTTP has ended.
type Left = Arc<Mutex<Option<Change>>>;

/// Serves one client connection.
pub(super) async fn serve(face: Arc<Face>, wire: Wire) {
    let (interim, left) = (wire.interim(), Left::default());
    let service = service_fn(|request| {
        let (face, interim, left) = (Arc::clone(&face), interim.clone(), Arc::clone(&left));
        async move {
            let shutdown = face.shutdown.clone();
            let mut response = reply(face, request, &interim, &left).await;
            if shutdown.is_draining() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE).max_header_size(HEAD_MAX);
    let connection = http.serve_connection(TokioIo::new(wire), service).with_upgrades();
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
    let change = left.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(change) = change {
        Box::pin(carry(&face, change)).await;
    }
}

async fn reply(face: Arc<Face>, mut request: Request<Incoming>, interim: &Interim, left: &Left) -> Response<Body> {
    let upgrade = request.headers().contains_key(header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let hears = parts.version == Version::HTTP_11;
    let heard = |(status, fields): &super::Head| {
        // The library says 100 by itself when the body is asked for.
        if hears && *status != StatusCode::CONTINUE {
            interim.say(*status, fields);
        }
    };
    match answer(&face, parts, body, heard).await {
        Replied::Answer(response) => response,
        Replied::Switched(response, to) => match upgrade {
            Some(upgrade) => {
                *left.lock().unwrap_or_else(PoisonError::into_inner) = Some(Change { upgrade, to: *to });
                response
            }
            // Nothing switches that was not asked to.
            None => super::empty(StatusCode::BAD_GATEWAY),
        },
    }
}

/// The answer that changes the protocol.
pub(super) fn switching((status, mut fields): super::Head, protocol: &str) -> Response<Body> {
    fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Ok(protocol) = HeaderValue::from_str(protocol) {
        fields.insert(header::UPGRADE, protocol);
    }
    let mut response = super::empty(status);
    *response.headers_mut() = fields;
    response
}

/// Carries bytes both ways to their ends.
async fn carry(face: &Face, Change { upgrade, to }: Change) {
    let Switched { lead, stream, mut access } = to;
    let Ok(upgraded) = upgrade.await else { return };
    // Made above, from nothing else.
    let Ok(parts) = upgraded.downcast::<TokioIo<Wire>>() else { return };
    let mut client = parts.io.into_inner().into_socket();
    let ahead = BytesMut::from(parts.read_buf);
    let ended = tokio::select! {
        biased;
        () = face.shutdown.forced() => Err(Cut::Stream(Failure::after_target(Code::Cancelled, "the connector ends"))),
        ended = carry::upgraded(&mut client, ahead, lead, stream, &face.clusters.memory, &mut access) => ended,
    };
    match ended {
        Ok(()) => access.completed(),
        Err(Cut::Client) => client.break_off(),
        Err(Cut::Stream(failure)) => {
            access.failed(&failure, By::of(&failure));
            client.break_off();
        }
        Err(Cut::Refused(refusal)) => access.failed(&refusal.failure, refusal.by),
    }
}
