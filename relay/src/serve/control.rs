//! A listener: its handshake, and its control channel for as long as its token lasts.
//!
//! The loop of an idle channel is a small task of its own that remembers nothing of the handshake; ten thousand of them
//! are what a large relay mostly consists of.
use std::{
    net::IpAddr,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use ::http::{HeaderMap, HeaderValue, StatusCode, header, uri::Authority};
use bytes::BytesMut;
use proto::{
    hybrid::{
        feature,
        message::{self, BODY_MAX, Response},
        status::close_reason,
    },
    ws::{
        Role,
        flood::Allowance,
        handshake,
        message::{ChannelError, Message, Receiver, split},
    },
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Relay,
    access::Line,
    authorize::{Ask, Need, admit, carried, check},
    body::Body,
    door::Visitor,
    http::{self, Requests},
    listeners::{Base, Listener, Place},
    record::Record,
    refusal::Refusal,
    route::{Asked, Denied},
    sources::counted,
    stay::{Over, Stay},
    storm,
    upgrade::{Accepted, taken_over},
};
use crate::farewell::Farewell;

/// Largest message from a listener: a response body. Texts have their own, slightly smaller bound.
pub(crate) const MESSAGE_MAX: usize = BODY_MAX;

/// Silence after which a listener is pinged; twice that without a frame and it is gone. Keeps the channel known to
/// balancers, which forget it after some four minutes.
pub(crate) const PING: Duration = Duration::from_secs(25);

/// Handles a listen handshake.
pub(crate) async fn listen(
    visitor: &Arc<Visitor>,
    mut asked: Asked,
    accept: HeaderValue,
    mut line: Box<Line>,
) -> Result<::http::Response<Body>, (Denied, Box<Line>)> {
    let relay = &visitor.relay;
    let admitted = async {
        let token = carried(&asked.target, asked.request.headers()).map(|carried| carried.token);
        let ask = Ask { peer: visitor.peer.ip(), path: asked.target.path(), token, need: Need::Listen };
        let stay = admit(relay, ask).await?;
        let base = base(visitor.tls, asked.request.headers())?;
        // 404 is never said to a listener for a transient reason: .NET's would stop for good.
        if let Some(excess) = visitor.excess {
            return Err(Denied::Over(Refusal::TooManyConnections, excess));
        }
        let over = |excess| Denied::Over(Refusal::TooManyListeners, excess);
        let place = stay.entity().listeners.reserve(&asked.id, visitor.peer.ip().to_canonical()).map_err(over)?;
        Ok::<_, Denied>((stay, base, place))
    };
    let (stay, base, place) = match admitted.await {
        Ok(admitted) => admitted,
        Err(denied) => return storm::refuse(visitor, asked, accept, line, denied).await,
    };
    visitor.proven();
    relay.offenders.clear(visitor.peer.ip(), asked.target.path());
    line.path.clone_from(&stay.entity().name);
    line.listener.replace_range(.., place.id());
    line.held_by(&stay.grant());
    line.status = StatusCode::SWITCHING_PROTOCOLS.as_u16();
    let upgrade = hyper::upgrade::on(&mut asked.request);
    let channel = Channel {
        relay: relay.clone(),
        stay: Arc::new(stay),
        path: asked.target.path().to_owned(),
        id: place.id().to_owned(),
        websockets_only: storm::is_hyco_ws(asked.request.headers()),
        place,
        line,
    };
    relay.shutdown.spawn(async move {
        let mut channel = channel;
        match taken_over(upgrade).await {
            Some((io, ahead)) => {
                let shutdown = channel.relay.shutdown.clone();
                shutdown.spawn(channel.run(base, io, ahead));
            }
            None => channel.line.end("lost", "listener"),
        }
    });
    let mut answer = handshake::switching(accept, None);
    answer.headers_mut().insert(feature::HEADER, HeaderValue::from_static(feature::ALL));
    Ok(answer)
}

/// How the listener named us, checked: it becomes part of addresses.
fn base(tls: bool, headers: &HeaderMap) -> Result<Base, Refusal> {
    let mut hosts = headers.get_all(header::HOST).into_iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return Err(Refusal::BadHost) };
    match Authority::try_from(host.as_bytes()) {
        Ok(authority) if !authority.as_str().contains('@') && !authority.host().is_empty() => {
            Ok(Base { tls, authority: authority.to_string() })
        }
        _ => Err(Refusal::BadHost),
    }
}

/// An open control channel.
struct Channel {
    relay: Arc<Relay>,
    stay: Arc<Stay>,
    /// As the listener wrote it: what a renewed token is checked against.
    path: String,
    id: String,
    websockets_only: bool,
    place: Place,
    line: Box<Line>,
}

/// Why a channel ends: name, whose doing, and what is said about it.
struct Ending {
    name: &'static str,
    fault: &'static str,
    farewell: Farewell,
}

impl Channel {
    async fn run(mut self, base: Base, io: Accepted, ahead: BytesMut) {
        let (channel, mut receiver, writer) = split(io, Role::Server, ahead, MESSAGE_MAX, PING);
        let listener = Listener {
            id: self.id.clone(),
            channel: channel.clone(),
            base,
            remote: self.line.peer(),
            stay: self.stay.clone(),
            websockets_only: self.websockets_only,
            requests: Requests::default(),
            draining: AtomicBool::new(false),
            record: Record::new(self.relay.clock.now(), self.line.holder.clone()),
            gone: CancellationToken::new(),
        };
        let listener = Arc::new(listener);
        self.place.register(listener.clone());
        let entity = self.stay.entity().clone();
        entity.metrics.listeners_opened.inc();
        self.relay.teller.connected(&entity, &listener);
        if entity.seen.note(counted(listener.remote.ip())) {
            self.relay.teller.new_address(&entity, &listener);
        }
        tokio::pin!(writer);
        let ending = tokio::select! {
            biased;
            ending = self.serve(&mut receiver, &listener) => Some(ending),
            () = &mut writer => None,
        };
        let Self { relay, stay, place, mut line, .. } = self;
        // No more senders, before the listener learns of it.
        drop(place);
        let (name, fault) = ending.as_ref().map_or(("lost", "listener"), |ending| (ending.name, ending.fault));
        line.end(name, fault);
        relay.teller.disconnected(&entity, &listener, name, fault);
        relay.metrics.listener_ended(&entity.name, name);
        drop((relay, entity, stay, listener));
        if let Some(ending) = ending {
            ending.farewell.say(channel, &mut receiver, writer).await;
        }
    }

    async fn serve(&mut self, receiver: &mut Receiver<Accepted>, listener: &Listener) -> Ending {
        let requests = &listener.requests;
        let (drain, force) = (self.relay.shutdown.drain_token(), self.relay.shutdown.force_token());
        let drained = async {
            drain.cancelled().await;
            // Nobody is given anything new.
            requests.all_answered().await;
        };
        tokio::pin!(drained);
        // A response whose body is the next binary message.
        let mut announced: Option<Response> = None;
        let mut unasked = Allowance::default();
        loop {
            let left = self.stay.grant().left(self.relay.clock.now());
            let message = tokio::select! {
                biased;
                () = force.cancelled() => return Ending { name: "forced", fault: "relay", farewell: Farewell::Nothing },
                () = &mut drained => {
                    return self.ending("drained", "relay", 1001, "the relay is shutting down");
                }
                over = self.stay.over() => return self.dismissed(over),
                by = self.place.taken() => return self.displaced(listener, by),
                () = tokio::time::sleep(left) => {
                    return self.ending("token_expired", "listener", 1008, "ExpiredToken: the token is expired");
                }
                message = receiver.next() => message,
            };
            match message {
                Err(error) => return self.broken(&error),
                Ok(Message::Close(_)) => {
                    return Ending { name: "closed", fault: "none", farewell: Farewell::Queued };
                }
                Ok(Message::Binary(bytes)) => match announced.take() {
                    Some(response) => {
                        let body = http::counted(bytes, &self.stay.entity().buffers);
                        requests.answer(response, Some(body));
                    }
                    // hyco-https sends one behind every answer.
                    None if bytes.is_empty() => {}
                    None => {
                        let reason = "a binary message that nothing announced";
                        return self.ending("protocol_error", "listener", 1002, reason);
                    }
                },
                Ok(Message::Text(text)) => match message::Message::read(&text) {
                    // A renewal costs signatures, and every message a wake-up.
                    Ok(message)
                        if !matches!(&message, message::Message::Response(it) if requests.is_asked_for(it))
                            && unasked.spend(Instant::now()).is_err() =>
                    {
                        return self.ending("flood", "listener", 1008, "too many messages that nobody asked for");
                    }
                    Ok(message::Message::RenewToken(renew)) => {
                        if let Err(refusal) = self.renew(&renew.token).await {
                            self.relay.metrics.refused(&self.stay.entity().name, refusal);
                            return self.ending(refusal.name(), "listener", 1008, refusal.text());
                        }
                    }
                    Ok(message::Message::Response(_)) if announced.is_some() => {
                        let reason = "a response in place of the body that was announced";
                        return self.ending("protocol_error", "listener", 1002, reason);
                    }
                    Ok(message::Message::Response(response)) if response.body => announced = Some(response),
                    Ok(message::Message::Response(response)) => requests.answer(response, None),
                    // What it was given already it finishes; then it closes.
                    Ok(message @ message::Message::Drain(_)) => {
                        listener.drain();
                        if let Ok(granted) = message.write() {
                            // A channel that has ended is noticed by its reader.
                            let _ = listener.channel.send(vec![Message::Text(granted)]).await;
                        }
                    }
                    Ok(_) => {}
                    Err(error) => {
                        self.line.because(&error);
                        return self.ending("protocol_error", "listener", 1002, &error.to_string());
                    }
                },
            }
        }
    }

    async fn renew(&mut self, token: &str) -> Result<(), Refusal> {
        let ask = Ask { peer: self.line.peer().ip(), path: &self.path, token: Some(token), need: Need::Listen };
        let grant = check(&self.relay, Some(self.stay.entity()), ask).await?;
        self.stay.renew(grant)?;
        tracing::debug!(entity = self.stay.entity().name, listener = self.id, "listener renewed its token");
        Ok(())
    }

    fn dismissed(&mut self, over: Over) -> Ending {
        let (code, text) = over.close();
        self.line.because(text);
        self.ending(over.name(), if over == Over::Removed { "none" } else { "listener" }, code, text)
    }

    /// Somebody at another address, which had fewer places, has this one now.
    fn displaced(&mut self, listener: &Listener, by: IpAddr) -> Ending {
        self.relay.teller.displaced(self.stay.entity(), listener, by);
        self.line.because(format_args!("its place went to a listener from {by}"));
        self.ending("displaced", "none", 1008, Refusal::TooManyListeners.text())
    }

    fn ending(&self, name: &'static str, fault: &'static str, code: u16, reason: &str) -> Ending {
        Ending { name, fault, farewell: Farewell::Close(code, close_reason(reason, &self.id)) }
    }

    fn broken(&mut self, error: &ChannelError) -> Ending {
        self.line.because(error);
        let name = match error {
            ChannelError::Io(_) | ChannelError::Ended => "lost",
            ChannelError::Silent(_) => "silent",
            ChannelError::Frame(_) | ChannelError::TooLarge { .. } | ChannelError::NotText => "protocol_error",
        };
        Ending { name, fault: "listener", farewell: Farewell::after(error) }
    }
}
