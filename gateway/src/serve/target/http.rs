//! One HTTP request to a target, and its answer back, both streaming at once. The connection is driven here, together
//! with whatever waits: for the answer, for the caller's credit, for the rest of the request's body.
//!
//! `one` and `two` know the two versions of HTTP; here is what both have in common. What becomes a byte pipe does so
//! only after the target said 101; any other answer to an upgrade is a plain one, and its connection is not used again.
//!
//! Whoever has moved too many bytes is slowed down where bodies move, piece by piece, and nowhere else: a target's heads,
//! which need no credit, are read all the while.

mod answer;
mod one;
mod two;

use std::{
    future::poll_fn,
    net::IpAddr,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, Request, StatusCode, header, response};
use hyper::body::Frame;
use proto::tunnel::{
    failure::{Code, Failure, Reached},
    hold::Hold,
    pb::{ForwardRequest, ForwardResponse, forward_response},
    receive::Receiver,
    server::Sender,
};
use tokio::time::{Instant, sleep_until};

use super::{
    body::{Progress, RequestBody},
    head::{self, Checked},
    naming::Naming,
    pipe,
    pool::{Link, Place, Pool},
    shared::Seat,
};
use crate::serve::{limits::paced, session::record::Traffic};

/// Interim answers of one request in all; a target that sends more, or without end, is broken.
const INTERIM_MAX: usize = 64;

/// Interim answers of one request that wait to be passed on; a target that sends them faster than that is broken.
const INTERIM_WAITING: usize = 8;

/// Attempts at one request: connections that others use may be closed just when the request comes.
const ATTEMPTS_MAX: usize = 4;

/// A connection for one request.
#[derive(Debug)]
pub enum Connection {
    /// HTTP/1.1, all of it.
    One(Link),
    /// A stream of HTTP/2.
    Two(Seat),
}

impl Connection {
    /// Where it leads.
    pub fn place(&self) -> &Place {
        match self {
            Self::One(link) => &link.place,
            Self::Two(seat) => &seat.place,
        }
    }
}

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
    /// What the stream holds.
    pub hold: Hold,
    /// Names by which a target is told who calls.
    pub naming: &'a Naming,
}

impl Exchange<'_> {
    /// Sends the request and passes the answer on. `open` is a connection that is open already, if there is one: a target
    /// may close it just when the request is on its way, and then the request goes once more, on a connection that `dial`
    /// finds, if nothing of it can have had an effect.
    ///
    /// # Errors
    /// The failure of whichever side broke first.
    pub async fn run<F>(
        self,
        receiver: Receiver<ForwardRequest>,
        sender: &mut Sender,
        open: Option<Connection>,
        dial: impl Fn() -> F,
    ) -> Result<(), Failure>
    where
        F: Future<Output = Result<Connection, Failure>>,
    {
        // Without a body the caller's direction says nothing more, unless there will be an upgrade.
        let (body, mut rest) = if self.checked.length == Some(0) {
            (RequestBody::none(Arc::clone(&self.traffic)), Some(receiver))
        } else {
            (
                RequestBody::streaming(receiver, self.checked.length, Arc::clone(&self.traffic), self.naming.clone()),
                None,
            )
        };
        let progress = body.progress();
        let mut request = self.checked.request(body, self.peer, self.trace.as_ref());
        let mut open = open;
        let mut attempt = 1;
        loop {
            let connection = match open.take() {
                Some(connection) => connection,
                None => dial().await?,
            };
            let mut call = self.call(connection, request);
            match self.head(&mut call, sender, &progress).await {
                Ok(parts) if parts.status == StatusCode::SWITCHING_PROTOCOLS => {
                    let receiver = rest.as_mut().ok_or_else(|| broken("the target switched protocols unasked"))?;
                    return self.upgraded(call, &parts, receiver, sender).await;
                }
                Ok(parts) => return answer::pass_on(call, parts, sender, &progress, &self).await,
                Err(Unsent { request: Some(again), .. }) if attempt < ATTEMPTS_MAX => {
                    attempt += 1;
                    request = *again;
                }
                Err(unsent) => return Err(unsent.failure),
            }
        }
    }

    fn call(&self, connection: Connection, request: Request<RequestBody>) -> Call {
        match connection {
            Connection::One(link) => Call::One(one::Call::new(link, request, self.checked)),
            Connection::Two(seat) => Call::Two(Box::new(two::Call::new(seat, request, self.checked))),
        }
    }

    /// Waits for the final answer's head; interim answers are passed on as they come.
    async fn head(&self, call: &mut Call, sender: &mut Sender, progress: &Progress) -> Result<response::Parts, Unsent> {
        let mut passed = 0_usize;
        let mut deadline = Instant::now() + self.first_byte;
        loop {
            let event = {
                let mut late = pin!(sleep_until(deadline));
                let mut cancelled = pin!(sender.cancelled());
                poll_fn(|cx| {
                    if let Poll::Ready(heard) = call.poll_head(cx) {
                        return Poll::Ready(Event::Heard(heard));
                    }
                    if cancelled.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Event::Cancelled);
                    }
                    late.as_mut().poll(cx).map(|()| Event::Late)
                })
                .await
            };
            match event {
                Event::Heard(Heard::Flood) => return Err(flood().into()),
                Event::Heard(Heard::Interim(..)) if passed >= INTERIM_MAX => return Err(flood().into()),
                Event::Heard(Heard::Interim(status, fields)) => {
                    passed += 1;
                    // 100 is between us and the target unless the caller waits for it.
                    if status != StatusCode::CONTINUE || self.checked.expects {
                        if status == StatusCode::CONTINUE {
                            progress.go_on();
                        }
                        call.alongside(&self.hold, send_head(status, &fields, sender)).await?;
                    }
                }
                Event::Heard(Heard::Answer(parts)) => {
                    self.check_switch(&parts)?;
                    self.traffic.answered();
                    return Ok(*parts);
                }
                Event::Heard(Heard::Broken(fault)) => {
                    if let Some(failure) = progress.failure() {
                        return Err(failure.into());
                    }
                    return Err(self.unsent(fault, passed > 0));
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

    /// A target may switch to what it was asked for, and to nothing else.
    fn check_switch(&self, parts: &response::Parts) -> Result<(), Failure> {
        if parts.status != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        let Some(wanted) = &self.checked.upgrade else {
            return Err(broken("the target switched protocols unasked"));
        };
        let mut named = parts.headers.get_all(header::UPGRADE).iter();
        match (named.next(), named.next()) {
            (Some(name), None) if name.as_bytes().eq_ignore_ascii_case(wanted.protocol.as_bytes()) => Ok(()),
            _ => Err(broken("the target switched to another protocol than it was asked for")),
        }
    }

    /// No answer: what it means, and the request to be sent once more if that is safe.
    fn unsent(&self, fault: Fault, heard: bool) -> Unsent {
        let message = format!("the target broke off before it answered: {}", fault.what);
        let (reached, again) = match (fault.request, fault.reached) {
            // Never written: whatever it is, nobody has seen it.
            (Some(request), _) => (Reached::No, Some(request)),
            (None, Reached::No) if !heard => {
                (Reached::No, (self.checked.length == Some(0)).then(|| Box::new(self.bodiless())))
            }
            // Perhaps seen, but doing it twice is as good as doing it once. A first connection that breaks is the target's
            // word, though.
            (None, _) if fault.reused && !heard && self.checked.may_repeat() => {
                (Reached::Maybe, Some(Box::new(self.bodiless())))
            }
            (None, _) => (Reached::Maybe, None),
        };
        Unsent { failure: Failure { code: Code::TargetBroken, message, reached }, request: again }
    }

    fn bodiless(&self) -> Request<RequestBody> {
        self.checked.request(RequestBody::none(Arc::clone(&self.traffic)), self.peer, self.trace.as_ref())
    }

    /// The target said 101: from here on there are only bytes.
    async fn upgraded(
        &self,
        mut call: Call,
        parts: &response::Parts,
        receiver: &mut Receiver<ForwardRequest>,
        sender: &mut Sender,
    ) -> Result<(), Failure> {
        self.traffic.status(parts.status);
        let Call::One(call) = &mut call else { return Err(broken("the target switched protocols in HTTP/2")) };
        let Some((wire, early)) = poll_fn(|cx| call.poll_upgraded(cx)).await else {
            return Err(broken("the target closed the connection when it had switched protocols"));
        };
        send_head(parts.status, &parts.headers, sender).await?;
        paced(&self.traffic, pipe::carry(wire, early, receiver, sender, &self.traffic)).await
    }
}

/// What a wait for the answer came to.
enum Event {
    Heard(Heard),
    Cancelled,
    Late,
}

/// What the target said before its answer's body.
enum Heard {
    /// Interim answers faster than anybody takes them.
    Flood,
    Interim(StatusCode, HeaderMap),
    Answer(Box<response::Parts>),
    Broken(Fault),
}

/// Why there is no answer.
struct Fault {
    what: String,
    /// The request, if it was never written.
    request: Option<Box<Request<RequestBody>>>,
    /// Whether the target may have seen it.
    reached: Reached,
    /// The connection had served other requests before.
    reused: bool,
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

/// A request on its way, in either version.
enum Call {
    One(one::Call),
    Two(Box<two::Call>),
}

/// A piece of an answer's body, or what broke it off.
type Piece = Result<Frame<bytes::Bytes>, String>;

impl Call {
    /// Drives everything that does not wait for the answer.
    fn poll_drive(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::One(call) => call.poll_drive(cx),
            Self::Two(call) => call.poll_drive(cx),
        }
    }

    /// The next thing before the body; drives.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        match self {
            Self::One(call) => call.poll_head(cx),
            Self::Two(call) => call.poll_head(cx),
        }
    }

    /// The next piece of the body; drives.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Piece>> {
        match self {
            Self::One(call) => call.poll_body(cx),
            Self::Two(call) => call.poll_body(cx),
        }
    }

    /// The caller's side has taken so much of the body.
    fn taken(&mut self, bytes: usize) {
        match self {
            Self::One(_) => {}
            Self::Two(call) => call.taken(bytes),
        }
    }

    /// Whether interim answers come faster than they are passed on.
    fn is_flooded(&self) -> bool {
        match self {
            Self::One(call) => call.is_flooded(),
            Self::Two(call) => call.is_flooded(),
        }
    }

    /// How much of the answer the target may send while nobody takes any.
    fn ahead(&mut self) -> usize {
        match self {
            Self::One(call) => call.ahead(),
            Self::Two(call) => call.ahead(),
        }
    }

    /// Drives the connection while something else is waited for: otherwise an answer that waits for the caller's credit
    /// would hold up the request's body, and two sides that stream at once would wait for each other for ever.
    ///
    /// What the target may send meanwhile counts as held from the moment that there is a wait: counting what has come would
    /// wake this task for each piece that it does not want.
    ///
    /// # Errors
    /// Those of the work; `TargetBroken` when more interim answers come meanwhile than are kept.
    async fn alongside<T>(
        &mut self,
        hold: &Hold,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut work = pin!(work);
        let mut ahead = None;
        poll_fn(|cx| {
            self.poll_drive(cx);
            if self.is_flooded() {
                return Poll::Ready(Err(flood()));
            }
            let polled = work.as_mut().poll(cx);
            if polled.is_pending() && ahead.is_none() {
                ahead = Some(hold.ahead(self.ahead()));
            }
            polled
        })
        .await
    }
}

fn flood() -> Failure {
    broken("the target sends interim answers without end")
}

fn broken(message: &str) -> Failure {
    Failure::after_target(Code::TargetBroken, message)
}

async fn send_head(status: StatusCode, fields: &HeaderMap, sender: &mut Sender) -> Result<(), Failure> {
    let head = head::answer(status, fields)?;
    sender.message(ForwardResponse { part: Some(forward_response::Part::Head(head)) }).await
}
