//! HTTP/2 on a face, for clients that begin with its preface. Each request is served in a task of its own, which ends when
//! the client resets the stream. Credit for a request's body goes back when it has been taken, and an answer waits for the
//! client's, so that a slow stream slows nobody else.
use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header, request::Parts};
use http_body::{Body as _, Frame};
use proto::{limits, tunnel::failure::Failure};
use tokio::{task::JoinSet, time::sleep};

use super::{Body, HEAD_DEADLINE, HEAD_MAX, Head, Replied, answer, wire::Wire};
use crate::connect::face::Face;

/// Requests at once on one connection: what browsers and gRPC libraries are used to.
const STREAMS_MAX: u32 = 256;

fn settings() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::STREAM_WINDOW * limits::CONNECTION_WINDOW_RATIO)
        .max_frame_size(limits::FRAME_MAX)
        .max_header_list_size(HEAD_MAX as u32)
        .max_send_buffer_size(limits::SEND_BUFFER_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .max_concurrent_reset_streams(limits::RESET_STREAMS_REMEMBERED)
        .reset_stream_duration(limits::RESET_STREAMS_REMEMBERED_FOR)
        .max_pending_accept_reset_streams(limits::RESETS_BEFORE_ACCEPT_MAX)
        .max_local_error_reset_streams(Some(limits::PEER_ERRORS_MAX))
        .data_frame_budget(limits::DATA_FRAME_BUDGET);
    builder
}

/// Serves one client connection.
pub(super) async fn serve(face: Arc<Face>, wire: Wire) {
    let accepted = tokio::select! {
        biased;
        () = face.shutdown.draining() => return,
        accepted = tokio::time::timeout(HEAD_DEADLINE, settings().handshake::<_, Bytes>(wire)) => accepted,
    };
    let Ok(Ok(mut connection)) = accepted else { return };
    let mut requests = JoinSet::new();
    let mut ending = false;
    loop {
        tokio::select! {
            biased;
            () = face.shutdown.forced() => return,
            () = face.shutdown.draining(), if !ending => {
                ending = true;
                connection.graceful_shutdown();
            }
            Some(_) = requests.join_next() => {}
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    requests.spawn(serve_request(Arc::clone(&face), request, respond));
                }
                Some(Err(error)) => {
                    return tracing::debug!(address = %face.address, %error, "client connection ended early");
                }
                None => return,
            },
            () = sleep(HEAD_DEADLINE), if requests.is_empty() && !ending => {
                ending = true;
                connection.graceful_shutdown();
            }
        }
    }
}

/// Interim answers that wait to be sent.
type Waiting = Arc<Mutex<VecDeque<Head>>>;

fn push(waiting: &Waiting, head: Head) {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(head);
}

async fn serve_request(face: Arc<Face>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let (mut parts, stream) = request.into_parts();
    as_one_would(&mut parts);
    let waiting = Waiting::default();
    let expects = parts.headers.contains_key(header::EXPECT);
    let body = RequestBody { stream, pending: 0, go_on: expects.then(|| Arc::clone(&waiting)) };
    let interim = Arc::clone(&waiting);
    let heard = move |head: &Head| {
        // 100 is said when the body is asked for.
        if head.0 != StatusCode::CONTINUE {
            push(&interim, head.clone());
        }
    };
    let replied = {
        let mut replying = pin!(answer(&face, parts, body, heard));
        poll_fn(|cx| {
            if respond.poll_reset(cx).is_ready() {
                return Poll::Ready(None);
            }
            let replied = replying.as_mut().poll(cx);
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            while let Some((status, fields)) = waiting.pop_front() {
                let mut interim = Response::new(());
                (*interim.status_mut(), *interim.headers_mut()) = (status, fields);
                // Interim answers may be left out, and a stream that takes none is told by its reset.
                drop(respond.send_informational(interim));
            }
            replied.map(Some)
        })
        .await
    };
    // Nothing is switched in HTTP/2, where fields that ask for it are errors. Whoever has reset the stream hears nothing.
    if let Some(Replied::Answer(response)) = replied {
        send(response, respond).await;
    }
}

/// A head as HTTP/1.1 would have it: `Host` from the authority, which comes before any other word (RFC 9113, section
/// 8.3.1), and one field for all cookies (section 8.2.3).
fn as_one_would(parts: &mut Parts) {
    if let Some(host) = parts.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()) {
        parts.headers.insert(header::HOST, host);
    }
    let mut cookies = parts.headers.get_all(header::COOKIE).iter();
    if let (Some(first), Some(second)) = (cookies.next(), cookies.next()) {
        let mut all = BytesMut::from(first.as_bytes());
        for cookie in std::iter::once(second).chain(cookies) {
            all.extend_from_slice(b"; ");
            all.extend_from_slice(cookie.as_bytes());
        }
        if let Ok(mut all) = HeaderValue::from_maybe_shared(all.freeze()) {
            all.set_sensitive(true);
            parts.headers.insert(header::COOKIE, all);
        }
    }
}

/// The request's body.
struct RequestBody {
    stream: RecvStream,
    /// Handed on, and not yet known to have been taken.
    pending: usize,
    /// Where the client is told to go on, if it waits for that.
    go_on: Option<Waiting>,
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(waiting) = self.go_on.take() {
            push(&waiting, (StatusCode::CONTINUE, HeaderMap::new()));
        }
        let taken = std::mem::take(&mut self.pending);
        // Fails only for more than was received.
        let _ = self.stream.flow_control().release_capacity(taken);
        if let Some(data) = ready!(self.stream.poll_data(cx)) {
            return Poll::Ready(Some(data.map(|data| {
                self.pending = data.len();
                Frame::data(data)
            })));
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        Poll::Ready(trailers.transpose().map(|trailers| trailers.map(Frame::trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}

/// What comes next in an answer's body.
enum Next {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    Broken,
    /// The client has reset the stream, or is gone.
    Gone,
}

/// Sends an answer to its end, unless the client resets the stream.
async fn send(response: Response<Body>, mut respond: SendResponse<Bytes>) {
    let (head, mut body) = response.into_parts();
    // A gRPC status in the head means that nothing follows, and its clients want the stream to end with it.
    let first = match head.headers.contains_key("grpc-status") && !body.is_end_stream() {
        true => Some(next(|cx| respond.poll_reset(cx), &mut body).await),
        false => None,
    };
    let end = body.is_end_stream() || matches!(first, Some(Next::End));
    let Ok(mut stream) = respond.send_response(Response::from_parts(head, ()), end) else { return };
    if end {
        return;
    }
    let mut first = first;
    loop {
        let frame = match first.take() {
            Some(frame) => frame,
            None => next(|cx| stream.poll_reset(cx), &mut body).await,
        };
        // What fails here fails because the client has reset the stream, and nobody listens any more.
        match frame {
            Next::Data(data) => match send_data(&mut stream, data).await {
                Some(()) => {}
                None => return,
            },
            Next::Trailers(trailers) => return drop(stream.send_trailers(trailers)),
            Next::End => return drop(stream.send_data(Bytes::new(), true)),
            Next::Broken => return stream.send_reset(Reason::INTERNAL_ERROR),
            Next::Gone => return,
        }
    }
}

/// The next frame of a body, unless the client resets the stream.
async fn next(mut reset: impl FnMut(&mut Context<'_>) -> Poll<Result<Reason, h2::Error>>, body: &mut Body) -> Next {
    poll_fn(|cx| {
        if reset(cx).is_ready() {
            return Poll::Ready(Next::Gone);
        }
        Poll::Ready(match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            None => Next::End,
            Some(Err(Failure { .. })) => Next::Broken,
            Some(Ok(frame)) => match frame.into_data().map_err(Frame::into_trailers) {
                Ok(data) => Next::Data(data),
                Err(Ok(trailers)) => Next::Trailers(trailers),
                // Neither data nor trailers: a kind of frame that HTTP/2 cannot carry.
                Err(Err(_)) => Next::Broken,
            },
        })
    })
    .await
}

/// Sends data as the client gives credit; nothing if it has gone.
async fn send_data(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Option<()> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        while stream.capacity() == 0 {
            poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?;
        }
        let piece = data.split_to(data.len().min(stream.capacity()));
        stream.send_data(piece, false).ok()?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_names_its_host_once_and_its_cookies_in_one_field() {
        let request = Request::get("http://a.svc:81/x").header("host", "other").header("cookie", "a=1");
        let mut parts = request.header("cookie", "b=2").header("cookie", "c=3").body(()).unwrap().into_parts().0;
        as_one_would(&mut parts);
        let all = |name| parts.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!((all("host"), all("cookie")), (vec!["a.svc:81"], vec!["a=1; b=2; c=3"]));
        assert!(parts.headers["cookie"].is_sensitive());
    }
}
