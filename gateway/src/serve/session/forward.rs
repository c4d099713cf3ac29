//! One `Forward` call: who calls, may they, where does it go; then bytes. The access line is written at the end, however
//! it ends.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use identity::principal::Principal;
use proto::tunnel::{
    budget::Party,
    deadline,
    failure::{Code, Failure},
    pb::{
        Connected, ForwardRequest, ForwardResponse, HttpRequest, Open, TcpTarget, UnixTarget, forward_request,
        forward_response, open,
    },
    receive::{Part, Receiver},
    server::{Forward, Sender},
};
use tokio::time::{Instant, timeout};

use super::{
    Tunnel,
    caller::Caller,
    kubernetes,
    record::{Record, Traffic},
    revoked::revoked,
};
use crate::{
    policy::{Ask, compile::is_plain_name},
    serve::{
        audit,
        limits::{StreamPlace, paced},
        target::{
            head::{self, Checked},
            http::Exchange,
            pipe,
            route::Route,
            unix,
            wire::Wire,
        },
    },
    traces,
};

/// How long a call may take to say what it wants. Its first message is small and goes out with the call.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);

/// Gateways that a stream may have crossed: one behind another is a design, more are a loop.
const HOPS_MAX: u32 = 3;

/// How long a call that is refused for its token is waited for to say what it wanted, for the log: it comes with the call.
const LAST_LOOK: Duration = Duration::from_millis(250);

/// Longest name of a stream taken from a caller.
const STREAM_ID_MAX: usize = 64;

/// Serves one call to its end.
pub(super) async fn serve(forward: Forward, tunnel: Arc<Tunnel>) {
    let Forward { metadata, receiver, mut sender } = forward;
    let mut record = Record::open(&tunnel.facts, &tunnel.gateway.metrics, "forward", stream_id(&metadata));
    let trace = follow(&metadata, &tunnel, &mut record);
    let hold = receiver.hold();
    let ended = tokio::select! {
        biased;
        failure = hold.cut() => Err(failure),
        outcome = deadline::within(&metadata, run(&metadata, trace, receiver, &mut sender, &tunnel, &mut record)) => {
            Ok(outcome)
        }
    };
    let outcome = match ended {
        Ok(outcome) => {
            match &outcome {
                Ok(()) => sender.finish(),
                Err(failure) => sender.fail(failure),
            }
            outcome
        }
        Err(failure) => {
            sender.cut(&failure);
            Err(failure)
        }
    };
    if let Err(failure) = &outcome {
        audit::refused(&tunnel.gateway.journal, &record, failure);
    }
    record.close(outcome);
}

async fn run(
    metadata: &HeaderMap,
    trace: Option<HeaderValue>,
    mut receiver: Receiver<ForwardRequest>,
    sender: &mut Sender,
    tunnel: &Tunnel,
    record: &mut Record,
) -> Result<(), Failure> {
    // Boxed, so that a stream which lives for days does not keep the room that its beginning needed.
    let (caller, open, _place) = Box::pin(begin(metadata, &mut receiver, tunnel, record)).await?;
    if open.hops > HOPS_MAX {
        let message = format!("the stream has crossed {} gateways already: the tunnels form a loop", open.hops);
        return Err(Failure::before_target(Code::LimitReached, message));
    }
    match open.target {
        Some(open::Target::Http(request)) => {
            Box::pin(http(request, open.hops, trace, receiver, sender, tunnel, &caller, record)).await
        }
        Some(open::Target::Tcp(target)) => {
            Box::pin(connection(&target, &mut receiver, sender, tunnel, &caller, record)).await
        }
        Some(open::Target::Kubernetes(request)) => {
            Box::pin(kubernetes::serve(request, trace, receiver, sender, tunnel, &caller, record)).await
        }
        Some(open::Target::Unix(target)) => {
            Box::pin(socket(&target, &mut receiver, sender, tunnel, &caller, record)).await
        }
        None => Err(Failure::before_target(Code::Unsupported, "the call asks for a kind of target that is not served")),
    }
}

/// Who calls, and what they want.
async fn begin(
    metadata: &HeaderMap,
    receiver: &mut Receiver<ForwardRequest>,
    tunnel: &Tunnel,
    record: &mut Record,
) -> Result<(Caller, Open, StreamPlace), Failure> {
    let caller = match tunnel.authenticate(metadata, record).await {
        Ok(caller) => caller,
        Err(failure) => {
            if let Ok(Ok(open)) = timeout(LAST_LOOK, first(receiver)).await {
                note(&open, record);
            }
            return Err(failure);
        }
    };
    receiver.hold().enter(parties(&caller))?;
    let open = timeout(OPEN_DEADLINE, first(receiver)).await.unwrap_or_else(|_| {
        Err(Failure::before_target(Code::ProtocolError, "the call did not say what it wants within 10 s"))
    })?;
    note(&open, record);
    let place = tunnel.gateway.ledger.stream(&caller)?;
    record.traffic.count_for(place.counting());
    Ok((caller, open, place))
}

/// What somebody wants, for the log of whatever becomes of it. Only what has the form of a target is written down.
fn note(open: &Open, record: &mut Record) {
    let place = |host: &str, port: u32| head::target(host, port).ok().map(|(host, port)| format!("{host}:{port}"));
    (record.kind, record.target) = match &open.target {
        Some(open::Target::Http(request)) => ("http", place(&request.host, request.port)),
        Some(open::Target::Tcp(target)) => ("tcp", place(&target.host, target.port)),
        Some(open::Target::Unix(target)) => ("unix", is_plain_name(&target.name).then(|| target.name.clone())),
        Some(open::Target::Kubernetes(_)) => ("kubernetes", None),
        None => return,
    };
}

/// Whose share of what the gateway holds the stream is part of (SD-14).
fn parties(caller: &Caller) -> Vec<Party> {
    let party = |kind, who: &Principal| Party { kind, name: who.to_string().into() };
    vec![party("actor", &caller.actor), party("subject", &caller.subject)]
}

async fn first(receiver: &mut Receiver<ForwardRequest>) -> Result<Open, Failure> {
    match receiver.next().await {
        Some(Ok(Part::Message(ForwardRequest { part: Some(forward_request::Part::Open(open)) }))) => Ok(open),
        Some(Ok(_)) => Err(Failure::before_target(Code::ProtocolError, "the call does not begin with `open`")),
        Some(Err(failure)) => Err(failure),
        None => Err(Failure::before_target(Code::ProtocolError, "the call ended before it began")),
    }
}

#[expect(clippy::too_many_arguments, reason = "the parts of one call, each with its own life")]
async fn http(
    request: HttpRequest,
    hops: u32,
    trace: Option<HeaderValue>,
    receiver: Receiver<ForwardRequest>,
    sender: &mut Sender,
    tunnel: &Tunnel,
    caller: &Caller,
    record: &mut Record,
) -> Result<(), Failure> {
    record.kind = "http";
    let mut checked = head::check(request)?;
    checked.hops = hops.saturating_add(1);
    record.target = Some(format!("{}:{}", checked.host, checked.port));
    record.method = Some(checked.method.to_string());
    record.path = Some(checked.path.path().to_owned());
    let gateway = &tunnel.gateway;
    let deadline = Instant::now() + gateway.limits.connect.0;
    let granted = gateway.grant(caller, ask(&checked), &checked.host, checked.port, deadline).await?;
    record.rule = Some(Arc::clone(&granted.rule));
    gateway.naming.overwrite(&mut checked.fields, caller);
    let route = Route::new(gateway, &granted, &checked)?;
    audit::granted(&gateway.journal, record).await?;
    let traffic = Arc::clone(&record.traffic);
    let exchange = Exchange {
        checked: &checked,
        peer: tunnel.facts.peer.ip(),
        trace,
        pool: &gateway.pools.here().single,
        first_byte: gateway.limits.first_byte.0,
        traffic: Arc::clone(&traffic),
        hold: receiver.hold(),
        naming: &gateway.naming,
    };
    let work = exchange.run(receiver, sender, route.open(&traffic), || route.dial(&traffic));
    tunnel.unless_ended(work, caller, ask(&checked), granted.external).await
}

async fn connection(
    target: &TcpTarget,
    receiver: &mut Receiver<ForwardRequest>,
    sender: &mut Sender,
    tunnel: &Tunnel,
    caller: &Caller,
    record: &mut Record,
) -> Result<(), Failure> {
    record.kind = "tcp";
    let (host, port) = head::target(&target.host, target.port)?;
    record.target = Some(format!("{host}:{port}"));
    let (ask, gateway) = (Ask::Tcp { host: &host, port }, &tunnel.gateway);
    let deadline = Instant::now() + gateway.limits.connect.0;
    let granted = gateway.grant(caller, ask, &host, port, deadline).await?;
    record.rule = Some(Arc::clone(&granted.rule));
    audit::granted(&gateway.journal, record).await?;
    let (stream, address) = gateway.connect(&granted, &host, deadline).await?;
    record.traffic.called(address);
    let connected = Connected { address: address.to_string() };
    let work = carry(connected, Wire::Tcp(stream), receiver, sender, &record.traffic);
    tunnel.unless_ended(work, caller, ask, granted.external).await
}

async fn socket(
    target: &UnixTarget,
    receiver: &mut Receiver<ForwardRequest>,
    sender: &mut Sender,
    tunnel: &Tunnel,
    caller: &Caller,
    record: &mut Record,
) -> Result<(), Failure> {
    record.kind = "unix";
    if !is_plain_name(&target.name) {
        let message = "the name of a Unix socket has 1 to 64 letters, digits, `.`, `_` or `-`";
        return Err(Failure::before_target(Code::InvalidRequest, message));
    }
    record.target = Some(target.name.clone());
    let (ask, gateway) = (Ask::Unix { name: &target.name }, &tunnel.gateway);
    record.rule = Some(gateway.decide(caller, ask, false)?);
    audit::granted(&gateway.journal, record).await?;
    let stream =
        unix::connect(&gateway.sockets.load_full(), &target.name, Instant::now() + gateway.limits.connect.0).await?;
    let connected = Connected { address: target.name.clone() };
    let work = carry(connected, Wire::Unix(stream), receiver, sender, &record.traffic);
    tunnel.unless_ended(work, caller, ask, false).await
}

/// Says that the target is there, which waits for the caller's credit as all else does, and carries bytes.
async fn carry(
    connected: Connected,
    target: Wire,
    receiver: &mut Receiver<ForwardRequest>,
    sender: &mut Sender,
    traffic: &Traffic,
) -> Result<(), Failure> {
    sender.message(ForwardResponse { part: Some(forward_response::Part::Connected(connected)) }).await?;
    paced(traffic, pipe::carry(target, Bytes::new(), receiver, sender, traffic)).await
}

impl Tunnel {
    /// Who calls; a connection on which nobody ever proves anything is ended by its session.
    pub(super) async fn authenticate(&self, metadata: &HeaderMap, record: &mut Record) -> Result<Caller, Failure> {
        let now = self.gateway.context.clock.now();
        match self.binding.caller(metadata, &self.gateway.authenticators, now).await {
            Ok(caller) => {
                record.actor = Some(caller.actor.clone());
                record.subject = Some(caller.subject.clone());
                if let Err(failure) = self.hold(&caller.actor) {
                    // Room may come; whoever is denied stays so.
                    if failure.code != Code::LimitReached {
                        self.strike();
                    }
                    return Err(failure);
                }
                self.proven(caller.actor.expires().max(caller.subject.expires()));
                Ok(caller)
            }
            Err(failure) => {
                self.strike();
                Err(failure)
            }
        }
    }

    /// Works on unless the stream is revoked or the grace period ends.
    pub(super) async fn unless_ended<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
        caller: &Caller,
        ask: Ask<'_>,
        external: bool,
    ) -> Result<T, Failure> {
        tokio::select! {
            // Work that never runs out of bytes spends the task's budget at every turn, so whatever may end it is asked first.
            biased;
            failure = revoked(&self.gateway, &self.binding, caller, ask, external) => Err(failure),
            () = self.gateway.context.shutdown.forced() => {
                Err(Failure::perhaps(Code::Draining, "the gateway's grace period is over"))
            }
            worked = work => worked,
        }
    }
}

fn ask(checked: &Checked) -> Ask<'_> {
    Ask::Http {
        host: &checked.host,
        port: checked.port,
        method: checked.method.as_str(),
        path: checked.path.as_str(),
        upgrade: checked.upgrade.as_ref().map(|wanted| wanted.kind),
    }
}

/// The caller's name for the stream if it can stand in a log line, else one of our own.
pub(super) fn stream_id(metadata: &HeaderMap) -> String {
    let given = metadata.get("causeway-stream-id").and_then(|value| value.to_str().ok());
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    match given {
        Some(id) if !id.is_empty() && id.len() <= STREAM_ID_MAX && id.bytes().all(plain) => id.to_owned(),
        _ => super::random_id(),
    }
}

/// Follows the trace that the call belongs to: gives the `traceparent` for whoever is called next.
pub(super) fn follow(metadata: &HeaderMap, tunnel: &Tunnel, record: &mut Record) -> Option<HeaderValue> {
    let parent = traces::parent(metadata);
    let given = metadata.get("traceparent").filter(|_| parent.is_some());
    record.trace = given.and_then(|trace| trace.to_str().ok()).map(ToOwned::to_owned);
    let gateway = &tunnel.gateway;
    record.span = gateway.tracer.begin(parent.as_ref(), gateway.context.clock.now());
    let ours = record.span.as_ref().and_then(|span| HeaderValue::from_str(&span.traceparent()).ok());
    ours.or_else(|| given.cloned())
}
