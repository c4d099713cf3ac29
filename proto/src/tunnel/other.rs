//! Every call but `Forward`, for services that tonic generated: an h2 stream on one side, a `tower` service over
//! tonic's body on the other. Credit returns when the service polls a frame; the answer waits for credit like any
//! stream; a caller that goes away ends the service's work, even while that waits for an event.

use std::{
    fmt::{self, Display},
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, Request, Response, request::Parts};
use http_body::{Body as _, Frame};
use tonic::body::Body;
use tower_service::Service;

use super::{
    failure::{Code, Failure},
    in_flight::Slot,
    message::Chunk,
    send::Outbound,
    status,
};

/// Any call but `Forward`, for services that tonic generated.
pub struct Other {
    /// Request head (path and metadata).
    pub head: Parts,
    body: RecvStream,
    respond: SendResponse<Chunk>,
    slot: Slot,
}

impl Other {
    pub(super) fn new(head: Parts, body: RecvStream, respond: SendResponse<Chunk>, slot: Slot) -> Self {
        Self { head, body, respond, slot }
    }

    /// Runs a tonic-generated service (any `tower` service over [`Body`]) and streams its answer back. Ends when the
    /// answer is complete or the caller has gone; the caller always gets a status.
    pub async fn serve<S>(self, mut service: S)
    where
        S: Service<Request<Body>, Response = Response<Body>>,
        S::Error: Display,
    {
        let Self { head, body, mut respond, slot: _slot } = self;
        let request = Request::from_parts(head, Body::new(RequestBody { stream: body }));
        let answer = {
            let mut answer = pin!(async {
                poll_fn(|cx| service.poll_ready(cx)).await?;
                service.call(request).await
            });
            poll_fn(|cx| match respond.poll_reset(cx) {
                Poll::Ready(_) => Poll::Ready(None),
                Poll::Pending => answer.as_mut().poll(cx).map(Some),
            })
            .await
        };
        match answer {
            Some(Ok(response)) => reply(respond, response).await,
            Some(Err(error)) => {
                refuse(respond, &Failure::perhaps(Code::Internal, format!("the service failed: {error}")))
            }
            None => {}
        }
    }

    /// Answers with a failure at once.
    pub fn fail(self, failure: &Failure) {
        refuse(self.respond, failure);
    }
}

impl fmt::Debug for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Other").field("path", &self.head.uri.path()).finish_non_exhaustive()
    }
}

fn refuse(mut respond: SendResponse<Chunk>, failure: &Failure) {
    // Fails only if the caller has reset the stream.
    let _ = respond.send_response(status::trailers_only(status::failed(failure)), true);
}

async fn reply(mut respond: SendResponse<Chunk>, response: Response<Body>) {
    let (head, mut body) = response.into_parts();
    let end = body.is_end_stream();
    let Ok(stream) = respond.send_response(Response::from_parts(head, ()), end) else { return };
    if end {
        return;
    }
    let mut outbound = Outbound::new(stream);
    loop {
        match next_frame(&mut outbound, &mut body).await {
            Next::Data(data) if data.is_empty() => {}
            Next::Data(data) => {
                if outbound.chunk(Chunk::bare(data), false).await.is_err() {
                    return;
                }
            }
            Next::Trailers(trailers) => return outbound.trailers(trailers),
            Next::End => {
                let _ = outbound.now(Chunk::bare(Bytes::new()), true);
                return;
            }
            Next::Failed => return outbound.reset(Reason::INTERNAL_ERROR),
            Next::CallerGone => return,
        }
    }
}

enum Next {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    Failed,
    CallerGone,
}

async fn next_frame(outbound: &mut Outbound, body: &mut Body) -> Next {
    poll_fn(|cx| {
        if outbound.poll_cancelled(cx).is_ready() {
            return Poll::Ready(Next::CallerGone);
        }
        Poll::Ready(match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            None => Next::End,
            Some(Err(_)) => Next::Failed,
            Some(Ok(frame)) => match frame.into_data().map_err(Frame::into_trailers) {
                Ok(data) => Next::Data(data),
                Err(Ok(trailers)) => Next::Trailers(trailers),
                // Neither data nor trailers: a kind of frame that HTTP/2 cannot carry.
                Err(Err(_)) => Next::Data(Bytes::new()),
            },
        })
    })
    .await
}

/// The request's body as the service reads it.
struct RequestBody {
    stream: RecvStream,
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let stream = &mut self.stream;
        if let Some(data) = ready!(stream.poll_data(cx)) {
            return Poll::Ready(Some(
                data.map_err(broken)
                    .inspect(|data| {
                        // Fails only for more than was received.
                        let _ = stream.flow_control().release_capacity(data.len());
                    })
                    .map(Frame::data),
            ));
        }
        let trailers = ready!(stream.poll_trailers(cx)).map_err(broken);
        Poll::Ready(trailers.transpose().map(|trailers| trailers.map(Frame::trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}

fn broken(error: h2::Error) -> tonic::Status {
    super::lost::stream(&error).into()
}
