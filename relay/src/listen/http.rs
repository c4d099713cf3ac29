//! HTTP requests that a relay hands to us, and their answers.
//!
//! A request comes on the control channel, with a body of at most 64 KiB, or by a rendezvous that the relay asks for. The
//! answer goes back the way the request came; from a control channel it moves to a rendezvous of its own when it is
//! larger than 64 KiB, or not finished within [`UPGRADE_AFTER`], or a stream of events. There each piece is sent on as it
//! comes. Every request is answered, whatever becomes of its handler, unless its sender or its relay is lost; and a
//! sender that goes away ends the handler.
mod answer;
mod body;
mod exchange;
mod fields;
mod line;
mod places;
mod socket;
mod target;
mod watch;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::uri::PathAndQuery;
use proto::hybrid::message::{Request, Response};
use tracing::warn;

pub(super) use self::answer::{Told, problem};
pub use self::body::{BodyError, RequestBody};
pub(super) use self::places::Places;
use self::{
    exchange::{Exchange, Way},
    line::Line,
};
use super::{Held, channel::Wire, knock::outside};

/// How long the answer's body may be unfinished before the answer moves to a rendezvous: long enough for what a handler
/// makes at once, short enough that nobody who watches notices. Microsoft's SDKs take 2 s.
const UPGRADE_AFTER: Duration = Duration::from_millis(100);

/// What a listener knows of a request beside its head: an extension of each.
#[derive(Debug, Clone)]
pub struct Received {
    /// The relay's id of it, fit for a log line.
    pub id: String,
    /// Where the sender came from, as the relay says; loopback is nobody.
    pub remote: Option<SocketAddr>,
    /// Its target without the name of the hybrid connection.
    pub below: PathAndQuery,
}

/// A whole request came on the control channel. What is returned is to be said there at once.
pub(super) fn arrived(held: &Arc<Held>, wire: &Arc<Wire>, request: Request, body: Option<Bytes>) -> Option<Response> {
    let Some(id) = request.id.clone() else {
        warn!(relay = %held.address, "relay sent a request without an id, which cannot be answered");
        return None;
    };
    let mut line = Line::begin(held, "control");
    line.request(&request);
    let Some(place) = held.requests.take(sender(&request)) else {
        return Some(answer::crowded(&mut line, id));
    };
    let exchange = Exchange::new(held, wire, line, Some(place));
    let way = match wire.hold_open() {
        Some(open) => Way::Channel(wire.clone(), open),
        None => Way::Rendezvous,
    };
    held.shared.context.shutdown.spawn(exchange.whole(way, request, id, body));
    None
}

/// A request waits at a rendezvous.
pub(super) fn announced(held: &Arc<Held>, wire: &Arc<Wire>, request: Request) {
    let Some(address) = request.address else {
        warn!(relay = %held.address, "relay sent a request with neither a method nor an address");
        return;
    };
    let mut line = Line::begin(held, "rendezvous");
    // Who the sender is shows there. The sender of one that finds no place is told so there; when even the tellers are too many, by the relay.
    let place = held.requests.take(None);
    let teller = match place {
        Some(_) => None,
        None => match held.dials_waiting.try_take() {
            Some(teller) => Some(teller),
            None => return line.end("crowded", "listener", "limits.dials_waiting".to_owned()),
        },
    };
    let exchange = Exchange::new(held, wire, line, place);
    held.shared.context.shutdown.spawn(async move {
        let _teller = teller;
        exchange.on_rendezvous(address).await;
    });
}

/// By what its places are counted.
fn sender(request: &Request) -> Option<IpAddr> {
    outside(request.remote_endpoint).map(|remote| remote.ip())
}
