//! A sender: waits, its handshake unanswered, until a listener has accepted or rejected it ([`super::meet`]), and is joined with
//! it.
use std::sync::{Arc, atomic::Ordering::Relaxed};

use http::{HeaderValue, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use proto::{
    hybrid::{LISTENER_HEADER, status::close_reason},
    tunnel::SUBPROTOCOL,
    ws::{Role, handshake},
};

use super::{
    Relay,
    access::Line,
    authorize::{Ask, Need, admit, carried},
    body::Body,
    door::Visitor,
    entities::Entity,
    meet::meet,
    refusal::Refusal,
    route::{Asked, Denied},
    share::Place,
    stay::{Over, Stay},
    upgrade::{Accepted, taken_over},
};
use crate::splice::{End, Framing, Leg, Side, Signals, Splice};

/// Handles a connect handshake.
pub(crate) async fn connect(
    visitor: &Arc<Visitor>,
    mut asked: Asked,
    accept: HeaderValue,
    mut line: Box<Line>,
) -> Result<Response<Body>, (Denied, Box<Line>)> {
    let relay = &visitor.relay;
    let own = hyper::upgrade::on(&mut asked.request);
    // Said by the sender and by nobody else: a thief among listeners would choose to have no name.
    let asks_who = handshake::offered_protocols(asked.request.headers()).any(|name| name == SUBPROTOCOL);
    let token = carried(&asked.target, asked.request.headers()).map(|carried| carried.token);
    let ask = Ask { peer: visitor.peer.ip(), path: asked.target.path(), token, need: Need::Send };
    let stay = match admit(relay, ask).await {
        Ok(stay) => stay,
        Err(refusal) => return Err((refusal.into(), line)),
    };
    visitor.proven();
    line.held_by(&stay.grant());
    let entity = stay.entity();
    let met = async {
        if !entity.settings().kind.takes_websockets() {
            return Err(Refusal::KindMismatch.into());
        }
        let place = enter(visitor, entity)?;
        let chosen = meet(visitor, &stay, &asked).await?;
        // The listener's 101 goes out first, so a sender's 101 means that somebody is there.
        let (io, ahead) = taken_over(chosen.upgrade).await.ok_or(Refusal::ListenerLost)?;
        let framing = Framing::WebSocket(Role::Server);
        let leg = Leg::new(io, framing, ahead, entity.buffers.clone());
        Ok::<_, Denied>((place, leg, chosen.listener, chosen.protocol, chosen.remote))
    };
    let met = tokio::select! {
        biased;
        over = stay.over() => Err(over.refusal().into()),
        met = met => met,
    };
    let (place, leg, listener, protocol, remote) = match met {
        Ok(met) => met,
        Err(denied) => return Err((denied, line)),
    };
    line.path.clone_from(&entity.name);
    line.listener.clone_from(&listener.id);
    line.status = StatusCode::SWITCHING_PROTOCOLS.as_u16();
    tracing::debug!(id = line.id, entity = entity.name, listener = listener.id, %remote, "sender joined with listener");
    let mut response = handshake::switching(accept, protocol.as_deref());
    let is_ours = protocol.as_deref() == Some(SUBPROTOCOL);
    if asks_who && let Ok(id) = HeaderValue::from_str(&listener.id) {
        response.headers_mut().insert(LISTENER_HEADER, id);
    }
    let stays = [stay.into(), listener.stay.clone()];
    let joined = Joined { relay: relay.clone(), stays, listener: leg, noticed: is_ours };
    relay.shutdown.spawn(join(joined, own, line, place));
    Ok(response)
}

/// What a sender that may send still has to keep to.
pub(crate) fn enter(visitor: &Visitor, entity: &Entity) -> Result<Place, Denied> {
    if let Some(excess) = visitor.excess {
        return Err(Denied::Over(Refusal::TooManyConnections, excess));
    }
    entity.requests.take().map_err(|excess| Denied::Over(Refusal::TooManyRequests, excess))?;
    entity.senders.take().map_err(|excess| Denied::Over(Refusal::TooManySenders, excess))
}

/// A listener that was found for a sender.
struct Joined {
    relay: Arc<Relay>,
    /// The sender's, and that of the listener that took it.
    stays: [Arc<Stay>; 2],
    listener: Leg<Accepted>,
    /// The subprotocol is ours, so notices may be sent.
    noticed: bool,
}

/// Takes the sender over once its 101 is out, and leaves the rest to a task that remembers nothing of the handshake.
async fn join(joined: Joined, own: OnUpgrade, mut line: Box<Line>, place: Place) {
    let Some((io, ahead)) = taken_over(own).await else {
        line.end("lost", "sender");
        return;
    };
    let Joined { relay, stays, listener, noticed } = joined;
    let entity = stays[0].entity();
    let sender = Leg::new(io, Framing::WebSocket(Role::Server), ahead, entity.buffers.clone());
    let splice = Splice::new(sender, listener).paced(&entity.pace);
    let signals = Signals {
        drain: relay.shutdown.drain_token(),
        force: relay.shutdown.force_token(),
        notice: noticed.then(crate::splice::drain_notice),
    };
    relay.shutdown.spawn(relayed(stays, splice, signals, line, place));
}

async fn relayed(
    stays: [Arc<Stay>; 2],
    mut splice: Splice<Accepted, Accepted>,
    signals: Signals,
    mut line: Box<Line>,
    _place: Place,
) {
    let metrics = &stays[0].entity().metrics;
    let _open = metrics.open_sender();
    let relayed = splice.run(signals, |up, down| {
        metrics.bytes_to_listener.inc_by(up);
        metrics.bytes_to_sender.inc_by(down);
    });
    let [sender, listener] = &stays;
    let ended = tokio::select! {
        biased;
        end = relayed => Ok(end),
        over = sender.over() => Err((over, "sender")),
        over = listener.over() => Err((over, "listener")),
    };
    match ended {
        Ok(end) => {
            let fault = match (end.side(), &end) {
                (Some(Side::A), _) => "sender",
                (Some(Side::B), _) => "listener",
                (None, End::Forced) => "relay",
                (None, _) => "none",
            };
            line.end(end.name(), fault);
            match &end {
                End::Lost(_, error) => line.because(error),
                End::Broken(_, error) => line.because(error),
                _ => {}
            }
        }
        Err((over, whose)) => {
            let (code, text) = over.close();
            line.end(over.name(), if over == Over::Removed { "none" } else { whose });
            line.because(text);
            splice.dismiss(code, &close_reason(text, &line.id)).await;
        }
    }
    let (up, down) = splice.bytes();
    line.bytes_up.store(up, Relaxed);
    line.bytes_down = down;
}
