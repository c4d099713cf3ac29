//! A request in HTTP/2: a stream of a connection that others use, too. Dropping it resets the stream, and nothing else.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::ResponseFuture};
use http::{
    HeaderMap, HeaderValue, Request, StatusCode, Uri,
    header::{self, HeaderName},
    uri::Scheme,
};
use http_body::Body;
use hyper::body::Frame;
use proto::tunnel::failure::Reached;

use super::{Fault, Heard, INTERIM_WAITING, Piece};
use crate::serve::target::{
    body::RequestBody,
    head::Checked,
    shared::{STREAM_WINDOW, Seat},
};

/// Fields that carry credentials: never indexed by HPACK, since other callers' requests share its table.
const CREDENTIALS: [HeaderName; 2] = [header::AUTHORIZATION, header::COOKIE];

/// A request on its way.
pub(super) struct Call {
    /// Held until the stream is over.
    seat: Seat,
    secure: bool,
    length: Option<u64>,
    state: State,
    /// Interim answers that wait to be passed on. HTTP/2 itself keeps as many as come.
    interim: VecDeque<(StatusCode, HeaderMap)>,
    flooded: bool,
    /// What the answer's declared length still lacks.
    left: Option<u64>,
    upload: Option<Upload>,
}

enum State {
    /// The connection may have no room for it yet.
    Waiting(Box<Request<RequestBody>>),
    Sent(ResponseFuture),
    Answered(RecvStream),
    Over,
}

impl Call {
    pub(super) fn new(seat: Seat, request: Request<RequestBody>, checked: &Checked) -> Self {
        let state = State::Waiting(Box::new(request));
        Self {
            seat,
            secure: checked.secure,
            length: checked.length,
            state,
            interim: VecDeque::new(),
            flooded: false,
            left: None,
            upload: None,
        }
    }

    pub(super) fn poll_drive(&mut self, cx: &mut Context<'_>) {
        self.poll_interim(cx);
        if let Some(upload) = &mut self.upload
            && Pin::new(upload).poll(cx).is_ready()
        {
            self.upload = None;
        }
    }

    /// Takes the interim answers that have come, also while nobody passes them on.
    fn poll_interim(&mut self, cx: &mut Context<'_>) {
        let State::Sent(response) = &mut self.state else { return };
        // An error is the answer's, too.
        while !self.flooded
            && let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx)
        {
            if self.interim.len() == INTERIM_WAITING {
                self.flooded = true;
                return;
            }
            let (parts, ()) = interim.into_parts();
            self.interim.push_back((parts.status, parts.headers));
        }
    }

    pub(super) fn is_flooded(&self) -> bool {
        self.flooded
    }

    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        if matches!(self.state, State::Waiting(_))
            && let Err(error) = ready!(self.poll_send(cx))
        {
            return Poll::Ready(self.broken(&error));
        }
        self.poll_drive(cx);
        if self.flooded {
            return Poll::Ready(Heard::Flood);
        }
        if let Some((status, fields)) = self.interim.pop_front() {
            return Poll::Ready(Heard::Interim(status, fields));
        }
        let State::Sent(response) = &mut self.state else { return Poll::Pending };
        Poll::Ready(match ready!(Pin::new(response).poll(cx)) {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                self.state = State::Answered(body);
                let length = parts.headers.get(header::CONTENT_LENGTH);
                self.left = length.and_then(|length| length.to_str().ok()?.parse().ok());
                Heard::Answer(Box::new(parts))
            }
            Err(error) => self.broken(&error),
        })
    }

    /// Sends the head as soon as the connection has room for a stream. Until then nothing is lost.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        ready!(self.seat.send.poll_ready(cx))?;
        let State::Waiting(request) = std::mem::replace(&mut self.state, State::Over) else {
            return Poll::Ready(Ok(()));
        };
        let (head, body) = in_http2(*request, self.secure, self.length).into_parts();
        let end = body.is_end_stream();
        let (response, stream) = self.seat.send.send_request(Request::from_parts(head, ()), end)?;
        self.state = State::Sent(response);
        self.upload = (!end).then(|| Upload { stream, body });
        Poll::Ready(Ok(()))
    }

    fn broken(&mut self, error: &h2::Error) -> Heard {
        // A connection that refuses, or goes away, has not looked at the stream (RFC 9113, sections 6.8 and 8.7).
        let unseen = error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM));
        if !error.is_reset() {
            self.seat.retire();
        }
        let waiting = match std::mem::replace(&mut self.state, State::Over) {
            State::Waiting(request) => Some(request),
            _ => None,
        };
        let reached = if unseen || waiting.is_some() { Reached::No } else { Reached::Maybe };
        Heard::Broken(Fault { what: error.to_string(), request: waiting, reached, reused: true })
    }

    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Piece>> {
        self.poll_drive(cx);
        let State::Answered(body) = &mut self.state else { return Poll::Ready(None) };
        if let Some(data) = ready!(body.poll_data(cx)) {
            if let (Some(left), Ok(data)) = (&mut self.left, &data) {
                *left = left.saturating_sub(data.len() as u64);
            }
            return Poll::Ready(Some(data.map(Frame::data).map_err(|error| error.to_string())));
        }
        let trailers = ready!(body.poll_trailers(cx)).map_err(|error| error.to_string());
        self.state = State::Over;
        Poll::Ready(trailers.transpose().map(|trailers| trailers.map(Frame::trailers)))
    }

    /// What the stream's window lets the target send while nobody takes any.
    pub(super) fn ahead(&mut self) -> usize {
        let window = STREAM_WINDOW as usize;
        match &self.state {
            State::Waiting(_) | State::Over => 0,
            State::Answered(body) if body.is_end_stream() => 0,
            State::Sent(_) | State::Answered(_) => {
                self.left.map_or(window, |left| usize::try_from(left).map_or(window, |left| left.min(window)))
            }
        }
    }

    pub(super) fn taken(&mut self, bytes: usize) {
        if let State::Answered(body) = &mut self.state {
            // Fails only for more than was received.
            let _ = body.flow_control().release_capacity(bytes);
        }
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("place", &self.seat.place).finish_non_exhaustive()
    }
}

/// Head for HTTP/2: scheme and authority beside the path, no `Host`; a length where one is declared.
fn in_http2<B>(mut request: Request<B>, secure: bool, length: Option<u64>) -> Request<B> {
    let authority = request.headers_mut().remove(header::HOST);
    let mut uri = std::mem::take(request.uri_mut()).into_parts();
    uri.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
    uri.authority = authority.and_then(|authority| authority.to_str().ok()?.parse().ok());
    *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
    let fields = request.headers_mut();
    fields.insert(header::TE, HeaderValue::from_static("trailers"));
    if let Some(length) = length.filter(|length| *length > 0) {
        fields.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    for name in CREDENTIALS {
        if let header::Entry::Occupied(mut entry) = fields.entry(name) {
            entry.iter_mut().for_each(|value| value.set_sensitive(true));
        }
    }
    request
}

/// The request's body on its way. Ends when all is sent, or the target wants no more.
struct Upload {
    stream: SendStream<Bytes>,
    body: RequestBody,
}

impl Future for Upload {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { stream, body } = &mut *self;
        loop {
            // The target may have answered already, and want no more.
            if stream.poll_reset(cx).is_ready() {
                return Poll::Ready(());
            }
            // Nothing is asked of the caller while the target takes nothing.
            if stream.capacity() == 0 {
                stream.reserve_capacity(1);
                match ready!(stream.poll_capacity(cx)) {
                    Some(Ok(_)) => continue,
                    Some(Err(_)) | None => return Poll::Ready(()),
                }
            }
            let sent = match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                None => stream.send_data(Bytes::new(), true),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        let end = body.is_end_stream();
                        match stream.send_data(data, end) {
                            Ok(()) if !end => continue,
                            sent => sent,
                        }
                    }
                    Err(frame) => stream.send_trailers(frame.into_trailers().unwrap_or_default()),
                },
                Some(Err(_)) => {
                    stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(());
                }
            };
            // Fails only on a stream that is closed, which the answer tells, too.
            drop(sent);
            return Poll::Ready(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_names_its_target_in_http2s_own_way() {
        let request = Request::builder().method("POST").uri("/v1/x?y=1").header("host", "a.svc:81");
        let sent = in_http2(request.body(()).unwrap(), true, Some(5));
        assert_eq!(sent.uri(), "https://a.svc:81/v1/x?y=1");
        assert!(!sent.headers().contains_key("host"));
        assert_eq!(sent.headers()["te"], "trailers");
        assert_eq!(sent.headers()["content-length"], "5");
    }

    #[test]
    fn credentials_stay_out_of_the_table_that_requests_share() {
        let request = Request::builder().header("authorization", "Basic YQ==").header("cookie", "a=b");
        let request = request.header("cookie", "c=d").header("x-plain", "1").body(()).unwrap();
        let sent = in_http2(request, false, None);
        let plain: Vec<_> = sent.headers().iter().filter(|(_, value)| !value.is_sensitive()).collect();
        assert_eq!(plain.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["x-plain", "te"]);
    }
}
