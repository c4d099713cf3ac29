//! Finding a listener for a sender.
//!
//! One listener is asked, at random. One that goes away before it answered is replaced by the next at once; one that takes
//! its time is not given up, but another is asked as well, and the first that dials back wins. The sender notices nothing
//! but the time, which is bounded by one deadline for all of them. Offers to the others are withdrawn with its wait, so
//! a dial that comes late is refused like any address that is spent.
use std::{future::poll_fn, net::SocketAddr, pin::Pin, sync::Arc, task::Poll, time::Duration};

use http::StatusCode;
use hyper::upgrade::OnUpgrade;
use proto::{
    hybrid::{
        address::{Action, Rendezvous},
        is_traceable,
        message::{self, Accept, Endpoint},
        new_id,
    },
    ws::{handshake, message::Message},
};
use tokio::time::{Instant, sleep_until};

use super::{
    door::Visitor,
    fields::forwarded,
    listeners::{Listener, Wanted},
    record::Given,
    refusal::Refusal,
    rendezvous::{Offer, Ticket, Verdict},
    route::{Asked, Denied},
    sources::counted,
    stay::Stay,
};

/// One in so many parts of the accept window is what a listener has for itself: 5 s of 30. Most dial back within a round
/// trip or two; a slow target is worth a few seconds; and the rest of the window is left for others.
pub(crate) const OWN_PART: u32 = 6;

/// What the listener chose.
pub(crate) struct Chosen {
    pub(crate) listener: Arc<Listener>,
    pub(crate) upgrade: OnUpgrade,
    pub(crate) protocol: Option<String>,
    pub(crate) remote: SocketAddr,
}

/// A listener that was asked, until it answers; nothing when it went away or spent the address on something else.
type Asking = Pin<Box<dyn Future<Output = (Arc<Listener>, Option<Verdict>)> + Send>>;

/// What a waiting sender wakes up for.
enum Turn {
    Answer(Arc<Listener>, Option<Verdict>),
    Picked(Option<Arc<Listener>>),
    AskAnother,
}

/// Finds a listener that takes this sender.
pub(crate) async fn meet(visitor: &Visitor, sender: &Stay, asked: &Asked) -> Result<Chosen, Denied> {
    let (relay, entity) = (&visitor.relay, sender.entity());
    let room = relay.waiting.take(&entity.name, counted(visitor.peer.ip()));
    let _waiting = room.map_err(|excess| Denied::Over(Refusal::TooManyRendezvous, excess))?;
    let deadline = Instant::now() + relay.accept_timeout;
    let patience = relay.accept_timeout / OWN_PART;
    let draining = relay.shutdown.drain_token();
    let id = if is_traceable(&asked.id) { asked.id.clone() } else { new_id() };
    let mut wanted = Wanted::new(asked.request.headers(), false);
    let mut asking: Vec<Asking> = Vec::new();
    let (mut ask, mut ask_another) = (true, deadline);
    loop {
        let turn = tokio::select! {
            biased;
            (listener, verdict) = any(&mut asking) => Turn::Answer(listener, verdict),
            () = draining.cancelled() => return Err(Refusal::Draining.into()),
            picked = entity.listeners.pick(&wanted), if ask => Turn::Picked(picked),
            () = sleep_until(deadline) => return Err(Refusal::AcceptTimeout.into()),
            () = sleep_until(ask_another), if !ask => Turn::AskAnother,
        };
        match turn {
            Turn::Answer(listener, Some(Verdict::Accepted { upgrade, protocol, remote })) => {
                return Ok(Chosen { listener, upgrade, protocol, remote });
            }
            Turn::Answer(_, Some(Verdict::Rejected { status, description })) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
                return Err(Denied::ByListener { status, description });
            }
            Turn::Answer(_, None) | Turn::AskAnother => ask = true,
            Turn::Picked(None) if !asking.is_empty() => (ask, ask_another) = (false, Instant::now() + patience),
            Turn::Picked(None) => return Err(entity.listeners.nobody(&wanted).into()),
            Turn::Picked(Some(listener)) => {
                wanted.tried.push(listener.clone());
                asking.push(question(visitor, sender, asked, listener, &id, patience)?);
                (ask, ask_another) = (false, Instant::now() + patience);
            }
        }
    }
}

/// The first that ends; never, without any.
async fn any(asking: &mut Vec<Asking>) -> (Arc<Listener>, Option<Verdict>) {
    poll_fn(|cx| {
        for at in 0..asking.len() {
            if let Poll::Ready(ended) = asking[at].as_mut().poll(cx) {
                drop(asking.swap_remove(at));
                return Poll::Ready(ended);
            }
        }
        Poll::Pending
    })
    .await
}

/// Asks one listener.
fn question(
    visitor: &Visitor,
    sender: &Stay,
    asked: &Asked,
    listener: Arc<Listener>,
    id: &str,
    patience: Duration,
) -> Result<Asking, Refusal> {
    let (relay, entity) = (&visitor.relay, sender.entity());
    let protocols = handshake::offered_protocols(asked.request.headers()).map(str::to_owned).collect();
    let offer = Offer { entity: entity.name.clone(), action: Action::Accept, id: id.to_owned(), protocols };
    let mut ticket = relay.table.offer(offer);
    let text = invitation(visitor, sender, asked, &listener, id, &ticket)?;
    let given = Given::new(entity, &listener, &relay.teller, patience);
    Ok(Box::pin(async move {
        let answered = async {
            listener.channel.send(vec![Message::Text(text)]).await.ok()?;
            (&mut ticket.verdict).await.ok()
        };
        let verdict = tokio::select! {
            biased;
            verdict = answered => verdict,
            () = listener.gone.cancelled() => None,
        };
        match verdict {
            Some(_) => given.answered(),
            None => given.failed(),
        }
        (listener, verdict)
    }))
}

/// The `accept` message for one listener.
fn invitation(
    visitor: &Visitor,
    sender: &Stay,
    asked: &Asked,
    listener: &Listener,
    id: &str,
    ticket: &Ticket,
) -> Result<String, Refusal> {
    let rendezvous = Rendezvous {
        tls: listener.base.tls,
        authority: &listener.base.authority,
        action: Action::Accept,
        id,
        secret: &ticket.secret,
    };
    let accept = Accept {
        address: rendezvous.address(&asked.target),
        id: id.to_owned(),
        connect_headers: forwarded(sender, &asked.target, asked.request.headers(), |_| true),
        remote_endpoint: Some(Endpoint { address: visitor.peer.ip().to_canonical(), port: visitor.peer.port() }),
    };
    message::Message::Accept(accept).write().map_err(|_| Refusal::HeadTooLarge)
}
