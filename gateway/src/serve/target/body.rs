//! A request's body: the caller's direction of the stream as an HTTP body. Credit for a piece goes back when the next
//! one is asked for, which the HTTP library does when it has room again, so a target that reads slowly slows the caller
//! and nothing piles up here. The declared length is held to: a body that is longer or shorter breaks the request.

use std::{
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use proto::tunnel::{
    failure::{Code, Failure},
    pb::{ForwardRequest, forward_request},
    receive::{Part, Receiver},
};
use tokio::{sync::Notify, time::Instant};

use crate::serve::{limits::Pause, session::record::Traffic};

use super::{head, naming::Naming};

/// The body of a request on its way to the target.
#[derive(Debug)]
pub struct RequestBody {
    /// Absent when there is no body, or it has ended.
    receiver: Option<Receiver<ForwardRequest>>,
    /// Handed on, and not yet known to have been taken.
    untaken: usize,
    /// When that was.
    handed: Instant,
    /// Bytes that the declared length still lacks.
    left: Option<u64>,
    progress: Arc<Progress>,
    traffic: Arc<Traffic>,
    pause: Pause,
    /// What its trailers may not be called.
    naming: Naming,
}

/// How far a request's body has come, for whoever waits for the answer.
#[derive(Debug)]
pub struct Progress {
    state: Mutex<State>,
    ended: Notify,
}

#[derive(Debug)]
struct State {
    /// When the target last took something.
    moved: Instant,
    ended: bool,
    /// The caller was told to go on.
    goes_on: bool,
    /// Nobody takes any more of it.
    dropped: bool,
    failure: Option<Failure>,
}

/// Why a body broke off; the failure itself is in [`Progress`].
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the caller's request broke off")]
pub struct BrokeOff;

impl Progress {
    fn new(ended: bool) -> Self {
        let state = State { moved: Instant::now(), ended, goes_on: false, dropped: false, failure: None };
        Self { state: Mutex::new(state), ended: Notify::new() }
    }

    /// When the target last took something of the body, or could have taken more.
    pub fn moved(&self) -> Instant {
        self.with(|state| state.moved)
    }

    /// Whether the whole body is on its way.
    pub fn is_ended(&self) -> bool {
        self.with(|state| state.ended)
    }

    /// The caller is told to go on with a body that waits for that.
    pub fn go_on(&self) {
        self.with(|state| state.goes_on = true);
    }

    /// Whether the caller was told to go on.
    pub fn goes_on(&self) -> bool {
        self.with(|state| state.goes_on)
    }

    /// Resolves when the whole body is on its way, or it broke off, or nobody takes any more of it.
    pub async fn ended(&self) {
        loop {
            let ended = self.ended.notified();
            if self.with(|state| state.ended || state.dropped || state.failure.is_some()) {
                return;
            }
            ended.await;
        }
    }

    /// Why the body broke off, if it did.
    pub fn failure(&self) -> Option<Failure> {
        self.with(|state| state.failure.clone())
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn end(&self) {
        self.with(|state| state.ended = true);
        self.ended.notify_waiters();
    }

    fn fail(&self, failure: Failure) {
        self.with(|state| state.failure.get_or_insert(failure).message.len());
        self.ended.notify_waiters();
    }
}

impl RequestBody {
    /// A body from the caller's direction, with its declared length.
    pub fn streaming(
        receiver: Receiver<ForwardRequest>,
        length: Option<u64>,
        traffic: Arc<Traffic>,
        naming: Naming,
    ) -> Self {
        let progress = Arc::new(Progress::new(false));
        let (handed, pause) = (Instant::now(), Pause::default());
        Self { receiver: Some(receiver), untaken: 0, handed, left: length, progress, traffic, pause, naming }
    }

    /// No body.
    pub fn none(traffic: Arc<Traffic>) -> Self {
        let progress = Arc::new(Progress::new(true));
        let (handed, pause) = (Instant::now(), Pause::default());
        Self { receiver: None, untaken: 0, handed, left: None, progress, traffic, pause, naming: Naming::default() }
    }

    /// How far it has come.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    fn fail(&mut self, failure: Failure) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        self.receiver = None;
        self.progress.fail(failure);
        Poll::Ready(Some(Err(BrokeOff)))
    }

    fn data(&mut self, bytes: Bytes) -> Result<Frame<Bytes>, Failure> {
        let count = bytes.len();
        if let Some(left) = &mut self.left {
            *left = left
                .checked_sub(count as u64)
                .ok_or_else(|| Failure::perhaps(Code::InvalidRequest, "the body is longer than its Content-Length"))?;
        }
        self.traffic.sent(count);
        self.handed = Instant::now();
        self.progress.with(|state| state.moved = self.handed);
        if self.left == Some(0)
            && let Some(mut receiver) = self.receiver.take()
        {
            // The HTTP library asks for nothing beyond the declared length, so nobody would see `fin`.
            receiver.taken(count);
            self.progress.end();
        } else {
            self.untaken = count;
        }
        Ok(Frame::data(bytes))
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.progress.with(|state| state.dropped = true);
        self.progress.ended.notify_waiters();
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BrokeOff;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        let this = &mut *self;
        let Some(receiver) = &mut this.receiver else { return Poll::Ready(None) };
        if this.pause.poll(&this.traffic, cx).is_pending() {
            // It is not the target that nothing moves for.
            let until = this.pause.until();
            this.progress.with(|state| state.moved = until.unwrap_or(state.moved));
            return Poll::Pending;
        }
        if this.untaken > 0 {
            // The HTTP library asks again when it has room.
            this.traffic.blocked_to_target.add(this.handed.elapsed());
            receiver.taken(std::mem::take(&mut this.untaken));
        }
        loop {
            let Some(receiver) = &mut this.receiver else { return Poll::Ready(None) };
            // Made anew at each poll, which `next` allows: it loses nothing when it is dropped.
            let part = ready!(pin!(receiver.next()).poll(cx));
            match part {
                Some(Ok(Part::Data(bytes))) if bytes.is_empty() => {}
                Some(Ok(Part::Data(bytes))) => {
                    return match this.data(bytes) {
                        Ok(frame) => Poll::Ready(Some(Ok(frame))),
                        Err(failure) => this.fail(failure),
                    };
                }
                Some(Ok(Part::Message(ForwardRequest { part: Some(forward_request::Part::Fin(fin)) }))) => {
                    if this.left.is_some_and(|left| left > 0) {
                        let message = "the body is shorter than its Content-Length";
                        return this.fail(Failure::perhaps(Code::InvalidRequest, message));
                    }
                    let trailers = match head::request_trailers(fin.trailers, &this.naming) {
                        Ok(trailers) => trailers,
                        Err(failure) => return this.fail(failure),
                    };
                    this.receiver = None;
                    this.progress.end();
                    return Poll::Ready((!trailers.is_empty()).then(|| Ok(Frame::trailers(trailers))));
                }
                Some(Ok(Part::Message(_))) => {
                    return this.fail(Failure::perhaps(Code::ProtocolError, "the caller sent `open` twice"));
                }
                Some(Err(failure)) => return this.fail(failure),
                None => {
                    return this.fail(Failure::perhaps(Code::ProtocolError, "the caller ended without `fin`"));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.receiver.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.receiver, self.left) {
            (None, _) => SizeHint::with_exact(0),
            (Some(_), Some(left)) => SizeHint::with_exact(left),
            (Some(_), None) => SizeHint::default(),
        }
    }
}
