//! One HTTP request to a target, and its answer back, both streaming at once. The connection is driven here, together
//! with whatever waits: for the answer, for the caller's credit, for the rest of the request's body.

mod answer;

use std::{
    future::poll_fn,
    net::IpAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use http::{HeaderMap, Request, Response, StatusCode};
use hyper::{body::Incoming, client::conn::TrySendError};
use proto::tunnel::{
    failure::{Code, Failure},
    pb::{ForwardRequest, ForwardResponse, forward_response},
    receive::Receiver,
    server::Sender,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    body::{Progress, RequestBody},
    head::{self, Checked},
    pool::{Link, Pool},
};
use crate::serve::session::record::Traffic;

/// Interim answers (1xx) of one request that wait to be passed on; a target that sends them faster than that, or
/// without end, is broken.
const INTERIM_WAITING: usize = 8;

/// Interim answers of one request in all.
const INTERIM_MAX: usize = 64;

/// What one exchange needs.
#[derive(Debug)]
pub struct Exchange<'a> {
    /// The checked head.
    pub checked: &'a Checked,
    /// Whom the tunnel is from.
    pub peer: IpAddr,
    /// `traceparent` of the call.
    pub trace: Option<http::HeaderValue>,
    /// Idle connections.
    pub pool: &'a Pool,
    /// Longest wait for the answer while the request does not move.
    pub first_byte: Duration,
    /// Counts bytes.
    pub traffic: Arc<Traffic>,
}

impl Exchange<'_> {
    /// Sends the request and passes the answer on. `link` is an idle connection, if there is one: a target may close it
    /// just when the request is on its way, and then the request goes once more, on a connection that `dial` makes, if
    /// nothing of it can have had an effect.
    ///
    /// # Errors
    /// The failure of whichever side broke first.
    pub async fn run<F>(
        self,
        receiver: Receiver<ForwardRequest>,
        sender: &mut Sender,
        link: Option<Link>,
        dial: impl Fn() -> F,
    ) -> Result<(), Failure>
    where
        F: Future<Output = Result<Link, Failure>>,
    {
        // Without a body the caller's direction says nothing more, and is kept only so that the stream stays whole.
        let (body, _rest) = if self.checked.length == Some(0) {
            (RequestBody::none(Arc::clone(&self.traffic)), Some(receiver))
        } else {
            (RequestBody::streaming(receiver, self.checked.length, Arc::clone(&self.traffic)), None)
        };
        let progress = body.progress();
        let mut request = self.checked.request(body, self.peer, self.trace.as_ref());
        let mut idle = link;
        loop {
            let reused = idle.is_some();
            let link = match idle.take() {
                Some(link) => link,
                None => dial().await?,
            };
            match self.send(link, request, sender, &progress).await {
                Ok((link, response)) => return answer::pass_on(link, response, sender, &progress, &self).await,
                Err(Unsent { request: Some(again), .. }) if reused => request = *again,
                Err(unsent) => return Err(unsent.failure),
            }
        }
    }

    /// Sends the request and waits for the final answer's head; interim answers are passed on as they come.
    async fn send(
        &self,
        mut link: Link,
        mut request: Request<RequestBody>,
        sender: &mut Sender,
        progress: &Progress,
    ) -> Result<(Link, Response<Incoming>), Unsent> {
        let (interims, mut interim) = mpsc::channel(INTERIM_WAITING);
        let flooded = Arc::new(AtomicBool::new(false));
        let flood = Arc::clone(&flooded);
        hyper::ext::on_informational(&mut request, move |response| {
            if interims.try_send((response.status(), response.headers().clone())).is_err() {
                flood.store(true, Ordering::Relaxed);
            }
        });
        let mut passed = 0_usize;
        let mut deadline = Instant::now() + self.first_byte;
        let mut response = pin!(link.sender.try_send_request(request));
        loop {
            let event = {
                let mut late = pin!(sleep_until(deadline));
                let mut cancelled = pin!(sender.cancelled());
                poll_fn(|cx| {
                    link.poll_drive(cx);
                    // Seen without the task's budget, which a flood of interim answers uses up.
                    if flooded.load(Ordering::Relaxed) {
                        return Poll::Ready(Event::Flooded);
                    }
                    if let Poll::Ready(Some(interim)) = interim.poll_recv(cx) {
                        return Poll::Ready(Event::Interim(interim));
                    }
                    if let Poll::Ready(answer) = response.as_mut().poll(cx) {
                        return Poll::Ready(Event::Answer(Box::new(answer)));
                    }
                    if cancelled.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Event::Cancelled);
                    }
                    late.as_mut().poll(cx).map(|()| Event::Late)
                })
                .await
            };
            match event {
                Event::Flooded => return Err(broken("the target sends interim answers without end").into()),
                Event::Interim(_) if passed >= INTERIM_MAX => {
                    return Err(broken("the target sends interim answers without end").into());
                }
                Event::Interim((status, fields)) => {
                    passed += 1;
                    // An unasked 101 ends the connection in the HTTP library; 100 is between us and the target.
                    if status != StatusCode::CONTINUE {
                        send_head(status, &fields, sender).await?;
                    }
                }
                Event::Answer(answer) => {
                    let mut error = match *answer {
                        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                            return Err(broken("the target switched protocols unasked").into());
                        }
                        Ok(response) => {
                            self.traffic.answered();
                            return Ok((link, response));
                        }
                        Err(error) => error,
                    };
                    if let Some(failure) = progress.failure() {
                        return Err(failure.into());
                    }
                    let message = format!("the target broke off before it answered: {}", error.error());
                    let (failure, again) = match error.take_message() {
                        // Never written: whatever it is, nobody has seen it.
                        Some(request) => (Failure::before_target(Code::TargetBroken, message), Some(request)),
                        // Perhaps written, but doing it twice is as good as doing it once.
                        None if passed == 0 && self.checked.may_repeat() => {
                            (Failure::perhaps(Code::TargetBroken, message), Some(self.bodiless()))
                        }
                        None => (Failure::perhaps(Code::TargetBroken, message), None),
                    };
                    return Err(Unsent { failure, request: again.map(Box::new) });
                }
                Event::Cancelled => {
                    return Err(Failure::perhaps(Code::Cancelled, "the caller gave the request up").into());
                }
                Event::Late => {
                    // While the request itself moves, the target is not to blame for being silent.
                    let moved = progress.moved() + self.first_byte;
                    if moved <= Instant::now() {
                        let message = format!("the target did not answer within {} s", self.first_byte.as_secs());
                        return Err(Failure::perhaps(Code::TargetTimeout, message).into());
                    }
                    deadline = moved;
                }
            }
        }
    }

    fn bodiless(&self) -> Request<RequestBody> {
        self.checked.request(RequestBody::none(Arc::clone(&self.traffic)), self.peer, self.trace.as_ref())
    }
}

/// What a wait for the answer came to.
enum Event {
    Flooded,
    Interim((StatusCode, HeaderMap)),
    Answer(Box<Result<Response<Incoming>, TrySendError<Request<RequestBody>>>>),
    Cancelled,
    Late,
}

/// No answer, and perhaps the request to be sent once more.
struct Unsent {
    failure: Failure,
    request: Option<Box<Request<RequestBody>>>,
}

impl From<Failure> for Unsent {
    fn from(failure: Failure) -> Self {
        Self { failure, request: None }
    }
}

fn broken(message: &str) -> Failure {
    Failure::after_target(Code::TargetBroken, message)
}

async fn send_head(status: StatusCode, fields: &HeaderMap, sender: &mut Sender) -> Result<(), Failure> {
    let head = head::answer(status, fields)?;
    sender.message(ForwardResponse { part: Some(forward_response::Part::Head(head)) }).await
}
