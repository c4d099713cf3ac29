//! A request in HTTP/1.1: the connection is its own as long as it lasts.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::Body;
use hyper::{body::Incoming, client::conn::TrySendError};
use proto::tunnel::failure::Reached;
use tokio::sync::mpsc;

use super::{Fault, Heard, INTERIM_WAITING, Piece};
use crate::serve::target::{
    body::RequestBody,
    head::Checked,
    pool::{BUFFER_MAX, Link},
    wire::Wire,
};

type Answering = Pin<Box<dyn Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + Send>>;

/// A request on its way.
pub(super) struct Call {
    link: Link,
    answering: Answering,
    interim: mpsc::Receiver<(StatusCode, HeaderMap)>,
    flooded: Arc<AtomicBool>,
    body: Option<Incoming>,
}

impl Call {
    pub(super) fn new(mut link: Link, mut request: Request<RequestBody>, checked: &Checked) -> Self {
        let fields = request.headers_mut();
        // Whatever becomes of them, trailers can travel from here on.
        fields.insert(header::TE, HeaderValue::from_static("trailers"));
        match &checked.upgrade {
            Some(wanted) => {
                link.for_upgrade();
                fields.insert(header::UPGRADE, wanted.protocol.clone());
                fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade, te"));
            }
            None => {
                fields.insert(header::CONNECTION, HeaderValue::from_static("te"));
            }
        }
        // Of a GET or HEAD that does not say how long its body is, the HTTP library believes that it has none.
        if checked.length.is_none() {
            fields.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let (interims, interim) = mpsc::channel(INTERIM_WAITING);
        let flooded = Arc::new(AtomicBool::new(false));
        let flood = Arc::clone(&flooded);
        hyper::ext::on_informational(&mut request, move |response| {
            if interims.try_send((response.status(), response.headers().clone())).is_err() {
                flood.store(true, Ordering::Relaxed);
            }
        });
        let answering = Box::pin(link.sender.try_send_request(request));
        Self { link, answering, interim, flooded, body: None }
    }

    pub(super) fn poll_drive(&mut self, cx: &mut Context<'_>) {
        self.link.poll_drive(cx);
    }

    /// Seen without the task's budget, which a flood of interim answers uses up.
    pub(super) fn is_flooded(&self) -> bool {
        self.flooded.load(Ordering::Relaxed)
    }

    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        self.link.poll_drive(cx);
        if self.is_flooded() {
            return Poll::Ready(Heard::Flood);
        }
        if let Poll::Ready(Some((status, fields))) = self.interim.poll_recv(cx) {
            return Poll::Ready(Heard::Interim(status, fields));
        }
        Poll::Ready(match ready!(self.answering.as_mut().poll(cx)) {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                self.body = Some(body);
                Heard::Answer(Box::new(parts))
            }
            Err(mut error) => Heard::Broken(Fault {
                what: error.error().to_string(),
                request: error.take_message().map(Box::new),
                reached: Reached::Maybe,
                reused: self.link.is_reused(),
            }),
        })
    }

    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Piece>> {
        self.link.poll_drive(cx);
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map_err(|error| error.to_string())))
    }

    /// What the HTTP library may read of the answer's body while nobody takes any: as much as it reads at once.
    pub(super) fn ahead(&mut self) -> usize {
        let Some(body) = &self.body else { return 0 };
        let left = if body.is_end_stream() { Some(0) } else { body.size_hint().upper() };
        left.map_or(BUFFER_MAX, |left| left.min(BUFFER_MAX as u64) as usize)
    }

    /// After a 101: what lies beneath, and what was read of it beyond the head.
    pub(super) fn poll_upgraded(&mut self, cx: &mut Context<'_>) -> Poll<Option<(Wire, Bytes)>> {
        self.link.poll_upgraded(cx)
    }

    /// The exchange is over: the connection may serve another one.
    pub(super) fn into_link(self) -> Link {
        self.link
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("place", &self.link.place).finish_non_exhaustive()
    }
}
