//! The HTTP face: each request is one stream. It speaks HTTP/1.1 and, to clients that begin with HTTP/2's preface,
//! HTTP/2. Bodies flow both ways as they come, and what the target sends is written at once. A failure before the answer
//! becomes an answer of ours; after it, the stream breaks, so that nobody takes a cut for an end.
use std::{sync::Arc, time::Duration};

use super::{
    Face,
    head::{self, Head, Outgoing},
    refusal::{By, Refusal, is_grpc},
    socket::Socket,
    upload::Upload,
};
use crate::connect::{
    access::Access,
    clusters::Lead,
    config::Speaks,
    tunnels::{ATTEMPTS_MAX, Stream, Tunnel, is_repeatable},
};
use ::http::{Method, Response, StatusCode, Version, request::Parts};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use proto::tunnel::{
    client::Sender,
    failure::{Code, Failure},
    pb,
    receive::Receiver,
};
use tokio::{io::AsyncReadExt, sync::oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

mod download;
mod one;
mod two;
mod wire;

pub(super) use self::download::Download;
use self::wire::Wire;

/// A request's head must be complete within this time after the connection became idle; it also ends idle connections.
pub(super) const HEAD_DEADLINE: Duration = Duration::from_secs(75);
/// Largest request head: it must fit into one message of the tunnel, 64 KiB, whose framing of a field is a little longer.
pub(super) const HEAD_MAX: usize = 48 * 1024;
/// How long a body waits for the target's word to go on. Many targets never say it, and clients themselves wait no longer.
const GO_ON_PATIENCE: Duration = Duration::from_secs(1);

/// What a client of HTTP/2 says first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bodies of answers, ours and the targets'.
pub(super) type Body = UnsyncBoxBody<Bytes, Failure>;

/// Serves one client connection.
pub(super) async fn serve(face: Arc<Face>, mut client: Socket) {
    let mut ahead = BytesMut::new();
    let two = tokio::select! {
        biased;
        // Who has asked for nothing yet can be let go.
        () = face.shutdown.lingered() => return,
        two = tokio::time::timeout(HEAD_DEADLINE, speaks_two(&mut client, &mut ahead)) => two,
    };
    let wire = Wire::new(client, ahead.freeze());
    match two {
        Ok(Some(true)) => Box::pin(two::serve(face, wire)).await,
        Ok(Some(false)) => Box::pin(one::serve(face, wire)).await,
        // Gone, or silent.
        Ok(None) | Err(_) => {}
    }
}

/// Whether the client begins as one of HTTP/2 does; nothing if it has gone. What was read is left in `ahead`.
async fn speaks_two(client: &mut Socket, ahead: &mut BytesMut) -> Option<bool> {
    loop {
        let common = ahead.len().min(PREFACE.len());
        if ahead[..common] != PREFACE[..common] {
            return Some(false);
        }
        if common == PREFACE.len() {
            return Some(true);
        }
        ahead.reserve(PREFACE.len());
        if client.read_buf(ahead).await.ok()? == 0 {
            return None;
        }
    }
}

/// What a request comes to.
enum Replied {
    Answer(Response<Body>),
    /// The target agreed to change the protocol: behind this answer there are only bytes.
    Switched(Response<Body>, Box<Switched>),
}

/// A stream that carries bytes from here on.
struct Switched {
    lead: Lead,
    stream: Stream,
    access: Access,
}

/// A stream whose answer has begun.
enum Begun {
    Answer(Head, Download),
    Switched(Head, Lead, Stream),
}

/// Answers one request, whatever happens. `heard` is told of interim answers.
async fn answer<B>(face: &Arc<Face>, parts: Parts, body: B, heard: impl FnMut(&Head)) -> Replied
where
    B: http_body::Body<Data = Bytes, Error: Send> + Send + Unpin + 'static,
{
    let mut access = face.access_of(&parts.headers);
    access.asks(&parts.method, parts.uri.path());
    match Box::pin(forward(face, &parts, body, &mut access, heard)).await {
        Ok(Begun::Answer(head, download)) => {
            let mut response = Response::new(download.into_body(access));
            (*response.status_mut(), *response.headers_mut()) = head;
            Replied::Answer(response)
        }
        Ok(Begun::Switched(head, lead, stream)) => {
            let protocol = head::upgrade_wanted(&parts.headers).unwrap_or_default();
            let response = one::switching(head, &protocol);
            Replied::Switched(response, Box::new(Switched { lead, stream, access }))
        }
        Err(refusal) => {
            access.answered(Some(refusal.status.as_u16()));
            access.failed(&refusal.failure, refusal.by);
            let answer = if is_grpc(&parts.headers) && parts.version == Version::HTTP_2 {
                refusal.grpc()
            } else {
                refusal.answer(access.stream, access.cluster())
            };
            Replied::Answer(answer.map(full))
        }
    }
}

fn full(text: Bytes) -> Body {
    if text.is_empty() { nothing() } else { Full::new(text).map_err(|never| match never {}).boxed_unsync() }
}

fn nothing() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(nothing());
    *response.status_mut() = status;
    response
}

/// Opens the stream, starts the body on its way, and waits for the answer's head.
async fn forward<B>(
    face: &Arc<Face>,
    parts: &Parts,
    body: B,
    access: &mut Access,
    mut heard: impl FnMut(&Head),
) -> Result<Begun, Refusal>
where
    B: http_body::Body<Data = Bytes, Error: Send> + Send + Unpin + 'static,
{
    face.guard.check(&parts.uri, &parts.headers)?;
    let lead = face.lead(&parts.uri, &parts.headers)?;
    access.leads_to(&lead);
    let no_body = body.is_end_stream();
    let outgoing = Outgoing::read(parts, face.speaks, no_body)?;
    let mut request = Request {
        face,
        upload: (!no_body).then(|| Upload::new(body, Arc::clone(&access.sent), access.blocked_to_target.clone())),
        switch: outgoing.upgrade().is_some(),
        held: outgoing.expects(),
    };
    let mut attempt = 1;
    loop {
        let make = || access.traced(outgoing.open(&lead.target, access.stream));
        let stream = lead.tunnels.open(make).await.map_err(unopened)?;
        access.carried_by(stream.tunnel.id, stream.tunnel.way);
        match request.exchange(stream, &mut heard).await {
            Ok((head, receiver, half)) => {
                access.answered(Some(head.0.as_u16()));
                let sending = match half {
                    Half::Open(sender, tunnel) => {
                        let stream = Stream { tunnel, sender, receiver };
                        return Ok(Begun::Switched(head, lead, stream));
                    }
                    Half::Sending(guard) => Some(guard),
                    Half::Done => None,
                };
                let bodiless =
                    parts.method == Method::HEAD || matches!(head.0, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
                let grpc = parts.version == Version::HTTP_2 && is_grpc(&parts.headers);
                let download = Download::new(Arc::clone(face), receiver, sending, &head, bodiless, grpc);
                return Ok(Begun::Answer(head, download));
            }
            Err(failure) if is_repeatable(&failure) && attempt < ATTEMPTS_MAX && request.can_repeat() => attempt += 1,
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

/// What becomes of the request's direction when the answer has begun.
enum Half {
    Done,
    /// The body is still on its way; dropping the guard breaks it off.
    Sending(DropGuard),
    /// The protocol has changed: whoever takes the stream goes on sending.
    Open(Sender, Arc<Tunnel>),
}

/// A request that is sent until it is answered.
struct Request<'a, B> {
    face: &'a Face,
    upload: Option<Upload<B>>,
    /// It asks to change the protocol.
    switch: bool,
    /// The client holds its body until it is told to go on.
    held: bool,
}

impl<B> Request<'_, B>
where
    B: http_body::Body<Data = Bytes, Error: Send> + Send + Unpin + 'static,
{
    fn can_repeat(&self) -> bool {
        self.upload.as_ref().is_none_or(Upload::can_repeat)
    }

    /// Sends the request until the answer's head is there.
    async fn exchange(
        &mut self,
        stream: Stream,
        heard: &mut impl FnMut(&Head),
    ) -> Result<(Head, Receiver<pb::ForwardResponse>, Half), Failure> {
        let Stream { tunnel, mut sender, mut receiver } = stream;
        let Some(upload) = self.upload.clone() else {
            if !self.switch {
                // A failure is told by the receiving half, too, and better.
                let _ = sender.fin(pb::Fin::default()).await;
            }
            let head = head::receive(&mut receiver, self.switch, heard).await;
            let head = head.inspect_err(|failure| notice(failure, self.face, &tunnel))?;
            if head.0 == StatusCode::SWITCHING_PROTOCOLS {
                return Ok((head, receiver, Half::Open(sender, tunnel)));
            }
            if self.switch {
                let _ = sender.fin(pb::Fin::default()).await;
            }
            return Ok((head, receiver, Half::Done));
        };
        let (go, told) = oneshot::channel();
        let mut go = Some(go);
        if !self.held {
            go.take().map(|go| go.send(()));
        }
        let mut sending = Box::pin(send_when_told(told, upload.clone(), sender));
        let mut done = false;
        let head = {
            let (held, go) = (&mut self.held, &mut go);
            let waiting = head::receive(&mut receiver, false, |head: &Head| {
                if head.0 == StatusCode::CONTINUE {
                    *held = false;
                    go.take().map(|go| go.send(()));
                }
                heard(head);
            });
            tokio::pin!(waiting);
            loop {
                tokio::select! {
                    biased;
                    head = &mut waiting => break head,
                    () = &mut sending, if !done => done = true,
                }
            }
        };
        // A client that was not told to go on keeps its body.
        drop(go);
        let head = head.inspect_err(|failure| notice(failure, self.face, &tunnel))?;
        upload.commit();
        if done {
            return Ok((head, receiver, Half::Done));
        }
        let stop = CancellationToken::new();
        let (stopped, shutdown) = (stop.clone(), self.face.shutdown.clone());
        self.face.shutdown.spawn(async move {
            tokio::select! {
                biased;
                () = shutdown.forced() => {}
                () = stopped.cancelled() => {}
                // What went wrong with it is seen by the half that receives.
                () = sending => {}
            }
        });
        Ok((head, receiver, Half::Sending(stop.drop_guard())))
    }
}

/// The body still on its way when the answer has begun; dropping it breaks the stream off.
pub(super) type Sending = Option<DropGuard>;

/// Sends a request that asks for nothing special, until the answer's head is there.
pub(super) async fn exchange<B>(
    face: &Face,
    stream: Stream,
    upload: Option<Upload<B>>,
) -> Result<(Head, Receiver<pb::ForwardResponse>, Sending), Failure>
where
    B: http_body::Body<Data = Bytes, Error: Send> + Send + Unpin + 'static,
{
    let mut request = Request { face, upload, switch: false, held: false };
    let (head, receiver, half) = request.exchange(stream, &mut |_: &Head| {}).await?;
    let sending = match half {
        Half::Sending(guard) => Some(guard),
        Half::Done | Half::Open(..) => None,
    };
    Ok((head, receiver, sending))
}

/// Sends a body once the target, or patience's end, says so. Without that nothing of it is read, and the stream stays.
async fn send_when_told<B>(told: oneshot::Receiver<()>, upload: Upload<B>, sender: Sender)
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let told = tokio::time::timeout(GO_ON_PATIENCE, told).await;
    if matches!(told, Ok(Err(_))) {
        let _kept = sender;
        return std::future::pending().await;
    }
    // What goes wrong is told by the half that receives, and better.
    drop(upload.send(sender).await);
}

/// A gateway that no longer knows us is told again who we are; callers' tokens are their own affair.
pub(super) fn notice(failure: &Failure, face: &Face, tunnel: &Tunnel) {
    if failure.code == Code::Unauthenticated && face.speaks == Speaks::Connector {
        tunnel.renew_actor();
    }
}
