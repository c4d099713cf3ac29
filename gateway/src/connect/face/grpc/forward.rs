//! `Forward` of a program, message by message: what it sends goes into a stream of a tunnel, what comes goes back, each with
//! the credit of the hop that takes it. As long as nothing has come back, what was sent is remembered up to a bound, so that
//! a stream that certainly went nowhere is opened again elsewhere without the program noticing.
use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, Method};
use proto::tunnel::{
    client, deadline,
    failure::{Code, Failure},
    pb::{self, forward_request, forward_response, open},
    receive::{Part, Receiver},
    server::{Forward, Sender},
};

use super::passed;
use crate::connect::{
    access::Access,
    face::{Face, head, refusal::Refusal},
    tunnels::{ATTEMPTS_MAX, Stream, is_repeatable},
};

/// Bytes remembered of one call, as of one body of a request.
const REPLAY_MAX: usize = 64 * 1024;
/// Longest name of a target in the log: what DNS allows, with a port.
const NAME_MAX: usize = 260;

/// Serves one call to its end.
pub(super) async fn serve(face: Arc<Face>, call: Forward) {
    let Forward { metadata, receiver, mut sender } = call;
    let mut access = face.access_of(&metadata);
    let work = carry(&face, &metadata, receiver, &mut sender, &mut access);
    let ended = tokio::select! {
        biased;
        () = face.shutdown.forced() => Err(Refusal::ours(Failure::perhaps(Code::Draining, "the connector ends"))),
        ended = deadline::within(&metadata, Box::pin(work)) => ended,
    };
    match ended {
        Ok(()) => {
            access.completed();
            sender.finish();
        }
        Err(refusal) => {
            access.failed(&refusal.failure, refusal.by);
            sender.fail(&refusal.failure);
        }
    }
}

async fn carry(
    face: &Face,
    metadata: &HeaderMap,
    mut receiver: Receiver<pb::ForwardRequest>,
    sender: &mut Sender,
    access: &mut Access,
) -> Result<(), Refusal> {
    let metadata = passed(face, metadata).map_err(|refusal| *refusal)?;
    let open = first(&mut receiver).await?;
    let reach = face.reach()?;
    let (target, asked) = named(&open);
    access.leads(&reach, target);
    if let Some((method, path)) = asked {
        access.asks(&method, &path);
    }
    let mut replay = Replay::default();
    let mut attempt = 1;
    loop {
        let make = || access.traced((head::with_stream_id(metadata.clone(), access.stream), open.clone()));
        let stream = reach.tunnels.open(make).await.map_err(Refusal::ours)?;
        access.carried_by(stream.tunnel.id, stream.tunnel.way);
        match exchange(stream, &mut receiver, sender, &mut replay, access).await {
            Err(failure) if is_repeatable(&failure) && attempt < ATTEMPTS_MAX && replay.is_possible() => attempt += 1,
            ended => return ended.map_err(Refusal::from),
        }
    }
}

async fn first(receiver: &mut Receiver<pb::ForwardRequest>) -> Result<pb::Open, Refusal> {
    let wrong = |message: &str| Refusal::ours(Failure::before_target(Code::ProtocolError, message));
    match receiver.next().await {
        Some(Ok(Part::Message(pb::ForwardRequest { part: Some(forward_request::Part::Open(open)) }))) => Ok(open),
        Some(Ok(_)) => Err(wrong("the call does not begin with `open`")),
        Some(Err(failure)) => Err(Refusal::ours(failure)),
        None => Err(wrong("the call ended before it began")),
    }
}

/// What the call asks for, as the log shows it: the gateway judges it.
fn named(open: &pb::Open) -> (String, Option<(Method, String)>) {
    let (mut name, asked) = match &open.target {
        Some(open::Target::Http(http)) => {
            (format!("{}:{}", http.host, http.port), without_query(&http.method, &http.path))
        }
        Some(open::Target::Kubernetes(request)) => {
            ("kubernetes".to_owned(), without_query(&request.method, &request.path))
        }
        Some(open::Target::Tcp(tcp)) => (format!("{}:{}", tcp.host, tcp.port), None),
        Some(open::Target::Unix(unix)) => (unix.name.clone(), None),
        None => (String::new(), None),
    };
    name.truncate(name.floor_char_boundary(NAME_MAX));
    (name, asked)
}

fn without_query(method: &str, path: &str) -> Option<(Method, String)> {
    let path = path.split(['?', '#']).next().unwrap_or_default().to_owned();
    Method::from_bytes(method.as_bytes()).ok().map(|method| (method, path))
}

/// What was sent before anything came back.
#[derive(Default)]
struct Replay {
    kept: Vec<Kept>,
    len: usize,
    /// More was sent than is remembered.
    spilled: bool,
    /// The program has said `fin`.
    ended: bool,
    /// Payload whose credit has not gone back.
    untaken: usize,
    /// Something came back.
    committed: AtomicBool,
}

#[derive(Clone)]
enum Kept {
    Data(Bytes),
    Fin(pb::Fin),
}

impl Replay {
    fn is_possible(&self) -> bool {
        !self.spilled && !self.committed.load(Ordering::Relaxed)
    }

    fn keep(&mut self, part: &Kept, committed: &AtomicBool) {
        if let Kept::Data(bytes) = part {
            self.len += bytes.len();
            self.untaken = bytes.len();
        }
        self.ended |= matches!(part, Kept::Fin(_));
        if self.spilled || committed.load(Ordering::Relaxed) || self.len > REPLAY_MAX {
            self.spilled = true;
            self.kept = Vec::new();
        } else {
            self.kept.push(part.clone());
        }
    }
}

/// Whose direction broke.
enum Broke {
    /// The program's.
    Caller(Failure),
    /// The stream's; its receiving half knows better why.
    Stream(Failure),
}

/// Carries both directions until the call is over.
async fn exchange(
    stream: Stream,
    receiver: &mut Receiver<pb::ForwardRequest>,
    sender: &mut Sender,
    replay: &mut Replay,
    access: &mut Access,
) -> Result<(), Failure> {
    let Stream { tunnel, sender: mut up, receiver: down } = stream;
    let (sent, blocked) = (Arc::clone(&access.sent), access.blocked_to_target.clone());
    sent.store(0, Ordering::Relaxed);
    let committed = AtomicBool::new(replay.committed.load(Ordering::Relaxed));
    let result = {
        let upward = async {
            let send = async |up: &mut client::Sender, part: Kept| match part {
                Kept::Data(bytes) => {
                    let len = bytes.len() as u64;
                    blocked.on(up.data(bytes)).await.map_err(Broke::Stream)?;
                    sent.fetch_add(len, Ordering::Relaxed);
                    Ok(())
                }
                Kept::Fin(fin) => up.fin(fin).await.map_err(Broke::Stream),
            };
            for part in replay.kept.clone() {
                send(&mut up, part).await?;
            }
            receiver.taken(mem::take(&mut replay.untaken));
            while !replay.ended {
                let part = next(receiver).await.map_err(Broke::Caller)?;
                replay.keep(&part, &committed);
                send(&mut up, part).await?;
                receiver.taken(mem::take(&mut replay.untaken));
            }
            Ok(())
        };
        let downward = downward(down, sender, access, &committed);
        tokio::pin!(upward, downward);
        let mut sending = true;
        loop {
            tokio::select! {
                ended = &mut upward, if sending => match ended {
                    Ok(()) => sending = false,
                    Err(Broke::Caller(failure)) => break Err(failure),
                    Err(Broke::Stream(failure)) => break Err((&mut downward).await.err().unwrap_or(failure)),
                },
                ended = &mut downward => break ended,
            }
        }
    };
    *replay.committed.get_mut() = committed.into_inner();
    if let Err(failure) = &result
        && failure.code == Code::Unauthenticated
    {
        tunnel.renew_actor();
    }
    result
}

async fn next(receiver: &mut Receiver<pb::ForwardRequest>) -> Result<Kept, Failure> {
    match receiver.next().await {
        Some(Ok(Part::Data(bytes))) => Ok(Kept::Data(bytes)),
        Some(Ok(Part::Message(pb::ForwardRequest { part: Some(forward_request::Part::Fin(fin)) }))) => {
            Ok(Kept::Fin(fin))
        }
        Some(Ok(Part::Message(_))) => Err(Failure::perhaps(Code::ProtocolError, "the caller sent `open` twice")),
        Some(Err(failure)) => Err(failure),
        None => Err(Failure::perhaps(Code::ProtocolError, "the caller ended without `fin`")),
    }
}

async fn downward(
    mut down: Receiver<pb::ForwardResponse>,
    sender: &mut Sender,
    access: &mut Access,
    committed: &AtomicBool,
) -> Result<(), Failure> {
    loop {
        let part = tokio::select! {
            biased;
            part = down.next() => part,
            () = sender.cancelled() => return Err(Failure::perhaps(Code::Cancelled, "the caller gave the call up")),
        };
        match part {
            None => return Ok(()),
            Some(Err(failure)) => return Err(failure),
            Some(Ok(part)) => {
                committed.store(true, Ordering::Relaxed);
                match part {
                    Part::Data(bytes) => {
                        let len = bytes.len();
                        access.blocked_to_client.on(sender.data(bytes)).await?;
                        down.taken(len);
                        access.received += len as u64;
                    }
                    Part::Message(message) => {
                        match &message.part {
                            Some(forward_response::Part::Head(head)) => {
                                access.answered(u16::try_from(head.status).ok());
                            }
                            Some(forward_response::Part::Connected(_)) => access.answered(None),
                            _ => {}
                        }
                        sender.message(message).await?;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_shows_no_query_and_no_endless_name() {
        let http = pb::HttpRequest {
            method: "GET".to_owned(),
            host: "ü".repeat(1000),
            path: "/a?secret=1".to_owned(),
            ..pb::HttpRequest::default()
        };
        let (name, asked) = named(&pb::Open { target: Some(open::Target::Http(http)), hops: 0 });
        assert!(name.len() <= NAME_MAX);
        assert_eq!(asked, Some((Method::GET, "/a".to_owned())));
    }
}
