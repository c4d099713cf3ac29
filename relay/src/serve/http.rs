//! HTTP senders: each request goes to one listener, as messages over its control channel or over a rendezvous of its own,
//! and its answer comes back the same way.
//!
//! A small request goes over the control channel (`requests`), a large one waits until the listener has dialled for it
//! (`carry`); which it is, `gather` finds out. A listener may dial for its answer to a small request, too. Headers pass
//! by the rules of `head`. A request that may have reached a listener is never given to another.
mod carry;
mod exchange;
mod gather;
mod head;
mod requests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Response, StatusCode, header, request};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use proto::{
    hybrid::{
        address::{Action, Rendezvous, Target},
        is_traceable,
        message::{self, Endpoint, Headers, Request},
        new_id,
        status::clean,
    },
    ws::message::Message,
};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use self::{
    carry::{Begun, Carry},
    gather::{Gathered, Upload, gather},
};
pub(crate) use self::{exchange::Exchange, gather::counted, requests::Requests};
use super::{
    Relay,
    access::Line,
    authorize::{Ask, Need, admit, carried},
    body::Body,
    config::Http,
    connect::enter,
    door::Visitor,
    entities::Entity,
    listeners::{Listener, Wanted},
    meet::OWN_PART,
    record::Given,
    refusal::Refusal,
    rendezvous::{Offer, Ticket, Verdict},
    route::{Asked, Denied},
    share::Waiting,
    sources::counted as address,
    stay::Stay,
    upgrade::taken_over,
};

/// Longest method that a log line shows.
const METHOD_SHOWN: usize = 32;

/// Numbers the requests of this process, so that no two have one id.
static REQUESTS: AtomicU64 = AtomicU64::new(1);

/// Handles an HTTP sender's request.
pub(crate) async fn send(
    visitor: &Arc<Visitor>,
    asked: Asked,
    mut line: Box<Line>,
) -> Result<Response<Body>, (Denied, Box<Line>)> {
    line.kind = "http";
    line.asked = Some((clean(asked.request.method().as_str(), METHOD_SHOWN), line.path.clone()));
    // Whoever leaves before there is an answer ends this at any moment.
    line.end("sender_gone", "sender");
    let stay = match admitted(visitor, &asked).await {
        Ok(stay) => Arc::new(stay),
        Err(refusal) => {
            if let Some(entity) = visitor.relay.namespace().find(asked.target.path()) {
                entity.metrics.answered(refusal.status());
            }
            return Err((refusal.into(), line));
        }
    };
    visitor.proven();
    line.path.clone_from(&stay.entity().name);
    line.held_by(&stay.grant());
    let gone = CancellationToken::new();
    let guard = gone.clone().drop_guard();
    let moved = line.bytes_up.clone();
    let relayed = async {
        let place = enter(visitor, stay.entity())?;
        let (call, body) = Call::new(visitor, &stay, asked, gone, moved)?;
        visitor.turns.set_stall(call.http.idle_timeout.0);
        Ok((call.relayed(body, &mut line).await?, place))
    };
    let relayed = tokio::select! {
        biased;
        over = stay.over() => Err(Denied::By(over.refusal())),
        relayed = relayed => relayed,
    };
    match relayed {
        Ok((response, place)) => {
            stay.entity().metrics.answered(response.status());
            line.answers(response.status().as_u16());
            let exchange = Exchange { stay, line, _place: place, _gone: guard };
            Ok(response.map(|body| body.telling(Box::new(exchange))))
        }
        Err(denied) => {
            stay.entity().metrics.answered(denied.status());
            Err((denied, line))
        }
    }
}

/// What is wrong in itself, then the token, then the rest.
async fn admitted(visitor: &Visitor, asked: &Asked) -> Result<Stay, Refusal> {
    let headers = asked.request.headers();
    if asked.request.method() == Method::CONNECT {
        return Err(Refusal::ConnectMethod);
    }
    let upgrades = headers.get_all(header::UPGRADE).into_iter().filter_map(|value| value.to_str().ok());
    // A client may offer other protocols; not to take the offer is an answer.
    if upgrades.flat_map(|value| value.split(',')).any(|name| name.trim().eq_ignore_ascii_case("websocket")) {
        return Err(Refusal::PlainPathWebSocket);
    }
    let token = carried(&asked.target, headers).map(|carried| carried.token);
    let ask = Ask { peer: visitor.peer.ip(), path: asked.target.path(), token, need: Need::Send };
    let stay = admit(&visitor.relay, ask).await?;
    if stay.entity().settings().kind.takes_http() { Ok(stay) } else { Err(Refusal::KindMismatch) }
}

/// One request on its way.
struct Call<'a> {
    relay: &'a Arc<Relay>,
    entity: &'a Arc<Entity>,
    stay: &'a Arc<Stay>,
    http: Http,
    target: Target,
    parts: request::Parts,
    fields: Headers,
    remote: Endpoint,
    id: String,
    namespace: String,
    gone: CancellationToken,
    moved: Arc<AtomicU64>,
}

/// What a listener's answer is made of.
type Answered = (message::Response, Body);

impl<'a> Call<'a> {
    fn new(
        visitor: &'a Visitor,
        stay: &'a Arc<Stay>,
        asked: Asked,
        gone: CancellationToken,
        moved: Arc<AtomicU64>,
    ) -> Result<(Self, Incoming), Refusal> {
        let (relay, entity) = (&visitor.relay, stay.entity());
        let http = entity.settings().http;
        let namespace = relay.namespace().host.clone();
        let (parts, body) = asked.request.into_parts();
        let fields = head::request(stay, &asked.target, &parts, &namespace)?;
        let remote = Endpoint { address: visitor.peer.ip().to_canonical(), port: visitor.peer.port() };
        // Two requests may carry one id of the client's, and a listener must not mistake one for the other.
        let id = if is_traceable(&asked.id) { asked.id } else { new_id() };
        let id = format!("{}_{}", &id[..id.len().min(64)], REQUESTS.fetch_add(1, Relaxed));
        let target = asked.target;
        Ok((Self { relay, entity, stay, http, target, parts, fields, remote, id, namespace, gone, moved }, body))
    }

    async fn relayed(self, body: Incoming, line: &mut Line) -> Result<Response<Body>, Denied> {
        let room = self.relay.waiting.take(&self.entity.name, address(self.remote.address));
        let waiting = room.map_err(|excess| Denied::Over(Refusal::TooManyRendezvous, excess))?;
        let mut wanted = Wanted::new(&self.parts.headers, true);
        // Somebody has to be there before the sender is asked for its body.
        let mut listener = self.pick(&wanted).await?;
        line.listener.clone_from(&listener.id);
        let gathered = gather(body, &self.entity.buffers, self.http.idle_timeout.0).await?;
        if listener.gone.is_cancelled() {
            listener = self.pick(&wanted).await?;
        }
        let answered = match gathered {
            Gathered::Whole(body) => self.over_control(&mut wanted, &mut listener, body, waiting).await,
            Gathered::Large(upload) => self.by_rendezvous(&mut wanted, &mut listener, upload, waiting).await,
        };
        // The last one that was asked, whatever came of it.
        line.listener.clone_from(&listener.id);
        let (answer, body) = answered?;
        let response = head::response(&answer, &self.namespace)?;
        let bodyless = self.is_bodyless(response.status());
        Ok(if bodyless { response } else { response.map(|_| body) })
    }

    /// HTTP gives these answers no body, whatever the listener sends.
    fn is_bodyless(&self, status: StatusCode) -> bool {
        self.parts.method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }

    async fn pick(&self, wanted: &Wanted) -> Result<Arc<Listener>, Denied> {
        let picked = timeout(self.relay.accept_timeout, self.entity.listeners.pick(wanted)).await;
        let picked = picked.map_err(|_| Refusal::AcceptTimeout)?;
        picked.ok_or_else(|| match self.entity.listeners.nobody(wanted) {
            Refusal::NoListener => {
                Denied::Nobody(StatusCode::from_u16(self.http.no_listener).unwrap_or(StatusCode::BAD_GATEWAY))
            }
            refusal => refusal.into(),
        })
    }

    /// Another listener, when this one cannot have got anything of the request.
    async fn next(&self, wanted: &mut Wanted, listener: &mut Arc<Listener>) -> Result<(), Denied> {
        wanted.tried.push(listener.clone());
        *listener = self.pick(wanted).await?;
        Ok(())
    }

    fn offer(&self) -> Ticket {
        let entity = self.entity.name.clone();
        self.relay.table.offer(Offer { entity, action: Action::Request, id: self.id.clone(), protocols: Vec::new() })
    }

    fn address(&self, listener: &Listener, ticket: &Ticket) -> String {
        let rendezvous = Rendezvous {
            tls: listener.base.tls,
            authority: &listener.base.authority,
            action: Action::Request,
            id: &self.id,
            secret: &ticket.secret,
        };
        rendezvous.entity_address(&self.entity.name)
    }

    /// The whole `request` message.
    fn message(&self, address: String, body: bool) -> Result<String, Refusal> {
        let request = Request {
            address: Some(address),
            id: Some(self.id.clone()),
            request_target: Some(self.target.request_target()),
            method: Some(self.parts.method.to_string()),
            remote_endpoint: Some(self.remote),
            request_headers: Some(self.fields.clone()),
            body: Some(body),
        };
        message::Message::Request(request).write().map_err(|_| Refusal::HeadTooLarge)
    }

    /// The request and its body as messages of the control channel.
    async fn over_control(
        &self,
        wanted: &mut Wanted,
        listener: &mut Arc<Listener>,
        body: Option<Bytes>,
        waiting: Waiting,
    ) -> Result<Answered, Denied> {
        if let Some(body) = &body {
            self.moved.store(body.len() as u64, Relaxed);
            self.entity.metrics.bytes_to_listener.inc_by(body.len() as u64);
            self.entity.pace.clone().pay(body.len()).await;
        }
        let patience = self.http.response_timeout.0;
        let until = Instant::now() + patience;
        loop {
            // It may have asked for that while the body was paid for.
            if listener.is_draining() {
                self.next(wanted, listener).await?;
                continue;
            }
            let mut ticket = self.offer();
            let mut expected = listener.requests.expect(&self.id);
            let text = self.message(self.address(listener, &ticket), body.is_some())?;
            let messages = [Message::Text(text)].into_iter().chain(body.clone().map(Message::Binary)).collect();
            let given = Given::new(self.entity, listener, &self.relay.teller, patience);
            let sent = tokio::select! {
                biased;
                sent = listener.channel.send(messages) => sent.is_ok(),
                () = listener.gone.cancelled() => false,
                () = sleep_until(until) => return Err(Refusal::ResponseTimeout.into()),
            };
            if !sent {
                given.failed();
                drop(expected);
                self.next(wanted, listener).await?;
                continue;
            }
            // It has its listener. How long that thinks about an answer is nobody else's business.
            drop(waiting);
            return tokio::select! {
                biased;
                answer = &mut expected.answer => {
                    given.answered();
                    let (response, body) = answer.map_err(|_| Refusal::ListenerLost)?;
                    Ok((response, Body::from(body.unwrap_or_default())))
                }
                verdict = &mut ticket.verdict => {
                    given.answered();
                    self.carried(listener, upgrade(verdict)?, None, until).await
                }
                () = listener.gone.cancelled() => {
                    given.failed();
                    Err(Refusal::ListenerLost.into())
                }
                () = sleep_until(until) => Err(Refusal::ResponseTimeout.into()),
            };
        }
    }

    /// Another listener to ask as well, once this one has had its time: none but the sender's own would wait for it.
    async fn another(&self, wanted: &mut Wanted, listener: &Arc<Listener>, patience: Duration) -> Arc<Listener> {
        loop {
            sleep(patience).await;
            wanted.tried.push(listener.clone());
            if let Some(other) = self.entity.listeners.pick(wanted).await {
                return other;
            }
            wanted.tried.pop();
        }
    }

    /// The request over a rendezvous that a listener is asked to dial.
    async fn by_rendezvous(
        &self,
        wanted: &mut Wanted,
        listener: &mut Arc<Listener>,
        upload: Upload,
        waiting: Waiting,
    ) -> Result<Answered, Denied> {
        let until = Instant::now() + self.relay.accept_timeout;
        let patience = self.relay.accept_timeout / OWN_PART;
        loop {
            let mut ticket = self.offer();
            let address = self.address(listener, &ticket);
            let text = self.message(address.clone(), true)?;
            let invitation = Request { address: Some(address), ..Request::default() };
            let invitation = message::Message::Request(invitation).write().map_err(|_| Refusal::HeadTooLarge)?;
            let given = Given::new(self.entity, listener, &self.relay.teller, patience);
            let asked = async {
                listener.channel.send(vec![Message::Text(invitation)]).await.ok()?;
                Some((&mut ticket.verdict).await)
            };
            let verdict = tokio::select! {
                biased;
                verdict = timeout_at(until, asked) => verdict.map_err(|_| Refusal::AcceptTimeout)?,
                () = listener.gone.cancelled() => None,
                // It has nothing of the request either, and its address is withdrawn.
                other = self.another(wanted, listener, patience) => {
                    drop(given);
                    *listener = other;
                    continue;
                }
            };
            match verdict {
                Some(verdict) => {
                    given.answered();
                    drop(waiting);
                    return self.carried(listener, upgrade(verdict)?, Some((text, upload)), until).await;
                }
                // It has nothing of the request yet.
                None => {
                    given.failed();
                    self.next(wanted, listener).await?;
                }
            }
        }
    }

    /// Hands the exchange to a rendezvous, and waits for its answer to begin.
    async fn carried(
        &self,
        listener: &Listener,
        upgrade: OnUpgrade,
        request: Option<(String, Upload)>,
        until: Instant,
    ) -> Result<Answered, Denied> {
        let (io, ahead) = taken_over(upgrade).await.ok_or(Refusal::ListenerLost)?;
        let (begun, answer) = oneshot::channel::<Begun>();
        let carry = Carry {
            relay: self.relay.clone(),
            stays: [self.stay.clone(), listener.stay.clone()],
            http: self.http,
            id: self.id.clone(),
            request,
            until,
            bodyless: self.parts.method == Method::HEAD,
            moved: self.moved.clone(),
            gone: self.gone.clone(),
            begun,
        };
        self.relay.shutdown.spawn(carry.run(io, ahead));
        let (response, pieces) = answer.await.map_err(|_| Refusal::ListenerLost)??;
        Ok((response, pieces.map(Body::from).unwrap_or_default()))
    }
}

/// The listener's connection; for a request there is nothing to reject.
fn upgrade(verdict: Result<Verdict, oneshot::error::RecvError>) -> Result<OnUpgrade, Refusal> {
    match verdict {
        Ok(Verdict::Accepted { upgrade, .. }) => Ok(upgrade),
        Ok(Verdict::Rejected { .. }) | Err(_) => Err(Refusal::ListenerLost),
    }
}
