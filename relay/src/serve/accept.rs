//! A listener's dial for one sender: accepts it, rejects it by status parameters, or takes its HTTP request.
use http::{HeaderValue, Response, StatusCode};
use proto::{hybrid::address::Action, ws::handshake};

use super::{
    access::Line,
    body::Body,
    door::Visitor,
    refusal::Refusal,
    rendezvous::{Taken, Verdict},
    route::{Asked, Denied},
};

/// Status for a sender whose listener rejected it with a code that ends no handshake (1xx, 2xx).
const NO_REFUSAL: u16 = 400;

/// Redeems the secret in the address. The sender's line tells about an accepted dial, so this one's is not written.
pub(crate) fn accept(
    visitor: &Visitor,
    mut asked: Asked,
    accept: HeaderValue,
    line: Box<Line>,
) -> Result<Response<Body>, (Denied, Box<Line>)> {
    let Some(Taken { offer, verdict }) = redeem(visitor, &asked) else {
        return Err((Refusal::RendezvousUnknown.into(), line));
    };
    visitor.proven();
    if let (Action::Accept, Some(rejection)) = (offer.action, asked.target.rejection()) {
        let Ok(code @ 100..=999) = rejection.code.trim().parse() else {
            return Err((Refusal::RejectCode.into(), line));
        };
        let status = if code < 300 { NO_REFUSAL } else { code };
        return match verdict.send(Verdict::Rejected { status, description: rejection.description }) {
            Ok(()) => Err((Denied::Rejects, line)),
            Err(_) => Err((Refusal::RendezvousUnknown.into(), line)),
        };
    }
    let chosen: Vec<&str> = handshake::offered_protocols(asked.request.headers()).collect();
    let protocol = match chosen[..] {
        [] => None,
        [one] if offer.protocols.iter().any(|offered| offered == one) => Some(one.to_owned()),
        _ => return Err((Refusal::ProtocolNotOffered.into(), line)),
    };
    let upgrade = hyper::upgrade::on(&mut asked.request);
    let accepted = Verdict::Accepted { upgrade, protocol: protocol.clone(), remote: visitor.peer };
    if verdict.send(accepted).is_err() {
        return Err((Refusal::RendezvousUnknown.into(), line));
    }
    line.told_elsewhere();
    let response = handshake::switching(accept, protocol.as_deref());
    debug_assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    Ok(response)
}

fn redeem(visitor: &Visitor, asked: &Asked) -> Option<Taken> {
    let secret = asked.target.secret()?;
    let entity = visitor.relay.namespace().find(asked.target.path()).cloned()?;
    visitor.relay.table.take(secret, &entity.name, asked.target.action(), asked.target.id()?)
}
