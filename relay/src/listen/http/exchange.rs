//! One request from its arrival to the end of its answer, on either way.
use std::{
    future::poll_fn,
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request as HttpRequest, Response as HttpResponse, StatusCode};
use http_body_util::BodyExt as _;
use proto::{
    hybrid::{message::Request, status::clean},
    ws::message::Message,
};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{
    Received,
    answer::{Gathered, Outgoing, Told, gather, problem, too_many},
    body::RequestBody,
    fields,
    line::Line,
    places::Place,
    sender,
    socket::{Gone, Reading, Sending, Socket},
    target,
};
use crate::listen::{
    Held, ResponseBody, channel::Wire, explained, knock::outside, rendezvous, rendezvous::RendezvousError,
};

/// For a rendezvous, and for the request on one: after 30 s no relay remembers it.
const SETUP: Duration = Duration::from_secs(30);

/// Longest id in a log line.
const SHOWN: usize = 128;

/// One request's way.
pub(super) struct Exchange {
    held: Arc<Held>,
    relay: Option<IpAddr>,
    lists: bool,
    line: Line,
    /// Its place among the requests; without one it is turned away.
    place: Option<Place>,
}

/// How a whole request is answered.
pub(super) enum Way {
    /// On its channel, which stays open for it; a large answer by rendezvous.
    Channel(Arc<Wire>, TaskTrackerToken),
    /// By a rendezvous that is opened at once, so that the relay knows: the channel is about to close.
    Rendezvous,
}

/// How an answer that was sent piece by piece ended.
enum Sent {
    Complete,
    /// The answer's body broke off.
    Broken(String),
    /// The other end takes nothing more.
    Refused,
}

impl Exchange {
    pub(super) fn new(held: &Arc<Held>, wire: &Wire, line: Line, place: Option<Place>) -> Self {
        Self { held: held.clone(), relay: wire.relay, lists: wire.features.header_lists, line, place }
    }

    /// A whole request from a control channel.
    pub(super) async fn whole(mut self, way: Way, request: Request, id: String, body: Option<Bytes>) {
        match way {
            Way::Channel(wire, open) => self.on_channel(wire, open, request, id, body).await,
            Way::Rendezvous => {
                let address = request.address.clone().unwrap_or_default();
                let Some(socket) = self.dial(&address).await else { return };
                self.on_socket(socket, request, body).await;
            }
        }
    }

    async fn on_channel(
        mut self,
        wire: Arc<Wire>,
        open: TaskTrackerToken,
        request: Request,
        id: String,
        body: Option<Bytes>,
    ) {
        let force = self.held.shared.context.shutdown.force_token();
        self.line.bytes_in = body.as_ref().map_or(0, Bytes::len) as u64;
        let address = request.address.clone();
        let bodiless = is_head(&request);
        let whole = |length| RequestBody::whole(body.unwrap_or_default(), length);
        let parsed = parse(&self.held, request, |length| whole(length).map_err(|error| error.to_string()));
        let answering = async {
            let answer = match parsed {
                Ok(request) => handled(&self.held, request, None).await,
                Err(refused) => Ok(*refused),
            };
            let Ok(answer) = answer else { return None };
            let (outgoing, mut rest) = Outgoing::new(answer, bodiless, self.lists);
            outgoing.record(&mut self.line);
            let gathered = match &mut rest {
                None => Gathered::Whole(Bytes::new()),
                Some(_) if outgoing.is_stream => Gathered::Begun(Vec::new()),
                Some(body) => gather(body).await,
            };
            Some((outgoing, gathered, rest))
        };
        let (outgoing, gathered, rest) = tokio::select! {
            biased;
            () = force.cancelled() => return self.line.end("forced", "listener", String::new()),
            // The relay has told the sender already.
            () = wire.gone.cancelled() => return self.line.end("channel_lost", "relay", String::new()),
            answered = answering => match answered {
                Some(answered) => answered,
                None => return,
            },
        };
        let begun = match gathered {
            Gathered::Whole(bytes) => return self.say(&wire, id, &outgoing, bytes).await,
            Gathered::Broken(why) => {
                let told = Told { outcome: "target_lost", fault: "target", detail: why };
                let answer = problem(StatusCode::BAD_GATEWAY, "The answer broke off", told);
                let (outgoing, _) = Outgoing::new(answer, true, false);
                outgoing.record(&mut self.line);
                return self.say(&wire, id, &outgoing, Bytes::new()).await;
            }
            Gathered::Begun(begun) => begun,
        };
        let Some(socket) = self.dial(&address.unwrap_or_default()).await else { return };
        drop(open);
        self.answer(socket, id, &outgoing, begun, rest).await;
    }

    /// A request that is to be had at a rendezvous.
    pub(super) async fn on_rendezvous(mut self, address: String) {
        let Some(mut socket) = self.dial(&address).await else { return };
        let asked = match timeout(SETUP, socket.reading.request()).await {
            Ok(asked) => asked,
            Err(_) => Err(Gone::Lost("the relay sent no request".to_owned())),
        };
        match asked {
            Ok(request) => {
                self.line.request(&request);
                self.on_socket(socket, request, None).await;
            }
            Err(gone) => self.gone(socket, gone).await,
        }
    }

    /// A request with an open rendezvous. `body` is what came with it.
    async fn on_socket(mut self, mut socket: Socket, request: Request, body: Option<Bytes>) {
        let id = request.id.clone().unwrap_or_default();
        let bodiless = is_head(&request);
        self.line.bytes_in = body.as_ref().map_or(0, Bytes::len) as u64;
        let reading = &mut socket.reading;
        let arrives = request.body == Some(true) && body.is_none();
        if arrives {
            reading.ignore();
        }
        let is_welcome = match &mut self.place {
            Some(place) => place.belongs_to(sender(&request)),
            None => false,
        };
        let answer = if !is_welcome {
            Ok(too_many())
        } else {
            let parsed = parse(&self.held, request, |length| match (body, arrives) {
                (Some(body), _) => RequestBody::whole(body, length).map_err(|error| error.to_string()),
                (None, true) => {
                    let (sink, body) = RequestBody::arriving(length);
                    reading.expect(sink);
                    Ok(body)
                }
                (None, false) => Ok(RequestBody::none()),
            });
            let force = self.held.shared.context.shutdown.force_token();
            tokio::select! {
                biased;
                () = force.cancelled() => return self.line.end("forced", "listener", String::new()),
                answer = async {
                    match parsed {
                        Ok(request) => handled(&self.held, request, Some(&mut socket.reading)).await,
                        Err(refused) => Ok(*refused),
                    }
                } => answer,
            }
        };
        self.line.bytes_in += socket.reading.bytes;
        match answer {
            Err(gone) => self.gone(socket, gone).await,
            Ok(answer) => {
                let (outgoing, body) = Outgoing::new(answer, bodiless, self.lists);
                outgoing.record(&mut self.line);
                self.answer(socket, id, &outgoing, Vec::new(), body).await;
            }
        }
    }

    /// The whole answer on the control channel.
    async fn say(&mut self, wire: &Wire, id: String, outgoing: &Outgoing, body: Bytes) {
        self.line.by = "control";
        let has_body = !body.is_empty();
        let Some(text) = outgoing.text(id.clone(), has_body).or_else(|| self.too_large(id)) else { return };
        let mut batch = vec![Message::Text(text)];
        if has_body {
            self.line.bytes_out = body.len() as u64;
            batch.push(Message::Binary(body));
        }
        if wire.channel.send(batch).await.is_err() {
            self.line.end("channel_lost", "relay", String::new());
        }
    }

    /// In place of a head that no relay takes.
    fn too_large(&mut self, id: String) -> Option<String> {
        let told =
            Told { outcome: "bad_answer", fault: "target", detail: "head of the answer is too large".to_owned() };
        let answer = problem(StatusCode::BAD_GATEWAY, "The head of the answer is too large", told);
        let (outgoing, _) = Outgoing::new(answer, true, false);
        outgoing.record(&mut self.line);
        outgoing.text(id, false)
    }

    /// The answer on a rendezvous, piece by piece.
    async fn answer(
        mut self,
        mut socket: Socket,
        id: String,
        outgoing: &Outgoing,
        begun: Vec<Bytes>,
        body: Option<ResponseBody>,
    ) {
        self.line.by = "rendezvous";
        let force = self.held.shared.context.shutdown.force_token();
        let (head, begun, body) = match outgoing.text(id.clone(), body.is_some()) {
            Some(head) => (Some(head), begun, body),
            None => (self.too_large(id), Vec::new(), None),
        };
        let Socket { sending, reading } = &mut socket;
        let before = reading.bytes;
        let mut count = 0;
        let sent = async {
            match head {
                Some(head) => stream(sending, head, begun, body, &mut count).await,
                None => Sent::Refused,
            }
        };
        let ended = tokio::select! {
            biased;
            () = force.cancelled() => Err(None),
            sent = sent => match sent {
                Sent::Complete => Ok(()),
                Sent::Broken(why) => Err(Some(("target_lost", "target", why))),
                Sent::Refused => Err(Some(("relay_lost", "relay", String::new()))),
            },
            gone = reading.gone() => return self.gone(socket, gone).await,
        };
        self.line.bytes_in += socket.reading.bytes - before;
        self.line.bytes_out = count;
        match ended {
            Ok(()) => {
                // The line is written and the place is free before the relay is waited for.
                drop(self);
                socket.finish().await;
            }
            Err(why) => {
                let (outcome, fault, detail) = why.unwrap_or(("forced", "listener", String::new()));
                self.line.end(outcome, fault, detail);
            }
        }
    }

    async fn dial(&mut self, address: &str) -> Option<Socket> {
        match timeout(SETUP, self.opened(address)).await.unwrap_or(Err(RendezvousError::TooSlow)) {
            Ok(socket) => Some(socket),
            Err(error) => {
                self.line.end(error.name(), error.fault(), explained(&error));
                None
            }
        }
    }

    async fn opened(&self, address: &str) -> Result<Socket, RendezvousError> {
        let destination = self.held.permit.check(address)?;
        let shared = &self.held.shared;
        let _dialling = self.held.dials.take().await;
        let upgraded = rendezvous::open(&self.held, &destination, self.relay, &[]).await?;
        Ok(Socket::new(upgraded, &shared.context.shutdown))
    }

    async fn gone(mut self, socket: Socket, gone: Gone) {
        match gone {
            Gone::Closed(code) => {
                self.line.end("sender_gone", "sender", format!("close code {code}"));
                drop(self);
                socket.finish().await;
            }
            Gone::Lost(why) => self.line.end("relay_lost", "relay", why),
        }
    }
}

fn is_head(request: &Request) -> bool {
    request.method.as_deref() == Some("HEAD")
}

/// Sends an answer on; `count` is the body's bytes.
async fn stream(
    sending: &mut Sending,
    head: String,
    begun: Vec<Bytes>,
    body: Option<ResponseBody>,
    count: &mut u64,
) -> Sent {
    if !sending.head(head).await {
        return Sent::Refused;
    }
    let Some(mut body) = body else { return Sent::Complete };
    for bytes in begun {
        *count += bytes.len() as u64;
        if !sending.bytes(bytes).await {
            return Sent::Refused;
        }
    }
    while let Some(frame) = body.frame().await {
        match frame.map(http_body::Frame::into_data) {
            Ok(Ok(bytes)) => {
                *count += bytes.len() as u64;
                if !sending.bytes(bytes).await {
                    return Sent::Refused;
                }
            }
            // Trailers have no place in a response message.
            Ok(Err(_)) => {}
            Err(error) => return Sent::Broken(error.to_string()),
        }
    }
    if sending.end().await { Sent::Complete } else { Sent::Refused }
}

/// The handler's answer, within the time that it has. What arrives meanwhile is read, and makes that time begin anew.
async fn handled(
    held: &Held,
    request: HttpRequest<RequestBody>,
    mut reading: Option<&mut Reading>,
) -> Result<HttpResponse<ResponseBody>, Gone> {
    let Some(handler) = &held.on_request else {
        let told = Told { outcome: "no_handler", fault: "listener", detail: String::new() };
        return Ok(problem(StatusCode::NOT_IMPLEMENTED, "This listener forwards WebSockets only", told));
    };
    let mut answer = pin!(unwinding(|| handler(request)));
    let mut deadline = Instant::now() + held.answer_within;
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return Ok(answer.unwrap_or_else(|()| {
                let told = Told { outcome: "panicked", fault: "listener", detail: String::new() };
                problem(StatusCode::INTERNAL_SERVER_ERROR, "The listener failed", told)
            })),
            step = step(&mut reading) => {
                step?;
                deadline = Instant::now() + held.answer_within;
            }
            () = sleep_until(deadline) => {
                let told = Told { outcome: "too_slow", fault: "target", detail: String::new() };
                return Ok(problem(StatusCode::GATEWAY_TIMEOUT, "There was no answer in time", told));
            }
        }
    }
}

async fn step(reading: &mut Option<&mut Reading>) -> Result<(), Gone> {
    match reading {
        Some(reading) => reading.step().await,
        None => std::future::pending().await,
    }
}

/// A future whose panic is an error: its sender gets an answer like any other.
async fn unwinding<F: Future + Unpin>(begin: impl FnOnce() -> F) -> Result<F::Output, ()> {
    let mut future = catch_unwind(AssertUnwindSafe(begin)).map_err(drop)?;
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| std::pin::Pin::new(&mut future).poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(_) => Poll::Ready(Err(())),
    })
    .await
}

/// The request as handlers see it, or the answer to one that they shall not see. `body` is given its length, where one is
/// said.
fn parse(
    held: &Held,
    request: Request,
    body: impl FnOnce(Option<u64>) -> Result<RequestBody, String>,
) -> Result<HttpRequest<RequestBody>, Box<HttpResponse<ResponseBody>>> {
    let refused = |why: String| {
        let told = Told { outcome: "bad_request", fault: "relay", detail: why.clone() };
        Box::new(problem(StatusCode::BAD_REQUEST, &why, told))
    };
    let method = request.method.as_deref().unwrap_or_default();
    let method = Method::from_bytes(method.as_bytes()).ok().filter(|method| method != Method::CONNECT);
    let method = method.ok_or_else(|| refused("the method is none for a relayed request".to_owned()))?;
    let target = request.request_target.as_deref().unwrap_or_default();
    let target = target::check(target, &held.entity).map_err(|error| refused(error.to_string()))?;
    let (headers, length) =
        fields::of_request(&request.request_headers.unwrap_or_default()).map_err(|error| refused(error.to_string()))?;
    let mut asked = HttpRequest::new(body(length).map_err(refused)?);
    *asked.method_mut() = method;
    *asked.uri_mut() = target.whole.into();
    *asked.headers_mut() = headers;
    asked.extensions_mut().insert(Received {
        id: clean(request.id.as_deref().unwrap_or_default(), SHOWN),
        remote: outside(request.remote_endpoint),
        below: target.below,
    });
    Ok(asked)
}
