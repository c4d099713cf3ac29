//! The HTTP CONNECT face (RFC 9110, section 9.3.6): the client names the target, one connection is one stream. A request
//! that is meant for a forwarding proxy (`GET http://…`) is refused with a text that says so. Head and deadline are bounded.
use std::{sync::Arc, time::Duration};

use bytes::{Buf, BytesMut};
use http::{HeaderMap, HeaderValue, header, uri::Authority};
use proto::tunnel::failure::{Code, Failure};
use tokio::io::AsyncReadExt;

use super::{
    Face,
    carry::{Carrier, Cut},
    farewell::farewell,
    guard, head,
    refusal::{By, Refusal},
    socket::Socket,
    vet::{FIELDS_MAX, field_map},
};
use crate::connect::{access::Access, clusters::Lead, config::Speaks};

/// The head of a request.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Largest head: a token of the caller's is the only long thing in it.
const HEAD_MAX: usize = 16 * 1024;
/// First room for it.
const HEAD_FIRST: usize = 1024;

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// Carries one connection to its end.
pub(super) async fn serve(face: Arc<Face>, mut client: Socket) {
    let mut access = face.access();
    let ended = tokio::select! {
        biased;
        () = face.shutdown.forced() => Err(Cut::Stream(Failure::perhaps(Code::Cancelled, "the connector ends"))),
        ended = Box::pin(carry(&face, &mut client, &mut access)) => ended,
    };
    match ended {
        Ok(()) => access.completed(),
        Err(Cut::Client) => client.break_off(),
        Err(Cut::Stream(failure)) => {
            access.failed(&failure, By::of(&failure));
            client.break_off();
        }
        Err(Cut::Refused(refusal)) => {
            access.answered(Some(refusal.status.as_u16()));
            access.failed(&refusal.failure, refusal.by);
            farewell(&mut client, &refusal.plain(access.stream, access.cluster())).await;
        }
    }
}

/// What a good request asks for.
struct Asked {
    lead: Lead,
    subject: Option<HeaderValue>,
}

async fn carry(face: &Face, client: &mut Socket, access: &mut Access) -> Result<(), Cut> {
    let mut ahead = BytesMut::with_capacity(HEAD_FIRST);
    let asked = tokio::select! {
        biased;
        // Who has asked for nothing yet can be let go.
        () = face.shutdown.lingered() => return Err(Cut::Client),
        asked = tokio::time::timeout(HEAD_DEADLINE, request(face, client, &mut ahead)) => match asked {
            Ok(asked) => asked?,
            Err(_) => {
                let text = format!("the head of the request did not come within {HEAD_DEADLINE:?}");
                return Err(refused(Refusal::too_slow(text)));
            }
        },
    };
    let Asked { lead, subject } = asked;
    access.leads_to(&lead);
    let mut carrier = Carrier::new(client, lead, ahead, None);
    let joined = match carrier.connect(subject.as_ref(), access).await {
        Err(Cut::Stream(failure)) => return Err(refused(Refusal::from(failure))),
        joined => joined?,
    };
    access.answered(Some(200));
    carrier.say(ESTABLISHED).await?;
    carrier.pump(joined, &face.clusters.memory, access).await
}

fn refused(refusal: Refusal) -> Cut {
    Cut::Refused(Box::new(refusal))
}

/// Reads one request; what follows it stays in `ahead`.
async fn request(face: &Face, client: &mut Socket, ahead: &mut BytesMut) -> Result<Asked, Cut> {
    let mut judged = 0;
    loop {
        // A head can only have become complete with the end of a line.
        if ahead[judged..].contains(&b'\n')
            && let Some((asked, len)) = parse(face, ahead).map_err(refused)?
        {
            ahead.advance(len);
            return Ok(asked);
        }
        judged = ahead.len();
        if judged >= HEAD_MAX {
            return Err(refused(Refusal::too_large(format!("the head of the request is above {HEAD_MAX} bytes"))));
        }
        ahead.reserve(HEAD_FIRST.min(HEAD_MAX - judged));
        let mut rest = (&mut *client).take((HEAD_MAX - judged) as u64);
        if rest.read_buf(ahead).await.map_err(|_| Cut::Client)? == 0 {
            return Err(Cut::Client);
        }
    }
}

/// A request and its length, once it is complete.
fn parse(face: &Face, bytes: &[u8]) -> Result<Option<(Asked, usize)>, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let len = match request.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(Refusal::invalid(format!("the head of the request is malformed: {error}"))),
    };
    let bare = bytes[..len].iter().enumerate().any(|(at, byte)| *byte == b'\n' && (at == 0 || bytes[at - 1] != b'\r'));
    if bare {
        return Err(Refusal::invalid("a line of the head ends without a carriage return"));
    }
    let fields = field_map(request.headers)?;
    guard::refuse_pages(&fields)?;
    let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    if method != "CONNECT" {
        return Err(if target.starts_with('/') {
            Refusal::invalid("this port is a proxy that serves CONNECT alone, and no web server")
        } else {
            Refusal::unsupported(format!(
                "this proxy serves CONNECT alone, not `{method}` of a URL: have the client tunnel through it \
                 (curl: --proxytunnel), or use an http face"
            ))
        });
    }
    let authority = destination(target)?;
    agree(&authority, &fields)?;
    let subject = admit(face, &fields)?;
    let lead = face.lead_named(&authority.0, authority.1).map_err(Refusal::ours)?;
    Ok(Some((Asked { lead, subject }, len)))
}

/// Host and port of `host:port`, and nothing else.
fn destination(target: &str) -> Result<(String, u16), Refusal> {
    let authority = target.parse::<Authority>().ok();
    match authority.as_ref().and_then(guard::split) {
        Some((host, Some(port))) => Ok((host, port)),
        _ => Err(Refusal::invalid("CONNECT needs <host>:<port>")),
    }
}

/// No second opinion about where the request goes, and no body, which would be taken for the stream's first bytes.
fn agree((host, port): &(String, u16), fields: &HeaderMap) -> Result<(), Refusal> {
    let mut named = fields.get_all(header::HOST).iter();
    let (named, more) = (named.next(), named.next());
    if more.is_some() {
        return Err(Refusal::invalid("the request has several Host fields"));
    }
    // HTTP/1.0 knows no Host.
    if let Some(named) = named {
        let named = named.to_str().ok().and_then(guard::parse);
        if !named.is_some_and(|(other, at)| other == *host && at.is_none_or(|at| at == *port)) {
            return Err(Refusal::invalid("Host names something else than the request line"));
        }
    }
    let body = fields.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
    if body || fields.contains_key(header::TRANSFER_ENCODING) {
        return Err(Refusal::invalid("a CONNECT request has no body"));
    }
    Ok(())
}

/// Checks the face's login, or finds the caller's token.
fn admit(face: &Face, fields: &HeaderMap) -> Result<Option<HeaderValue>, Refusal> {
    let mut shown = fields.get_all(header::PROXY_AUTHORIZATION).iter();
    let (shown, more) = (shown.next(), shown.next());
    if more.is_some() {
        return Err(Refusal::invalid("the request has several Proxy-Authorization fields"));
    }
    if face.speaks == Speaks::Caller {
        let subject = shown.and_then(|shown| shown.to_str().ok()).and_then(head::bearer_of);
        let subject = subject.and_then(crate::connect::actor::bearer);
        return subject.map(Some).ok_or_else(|| {
            Refusal::proxy_login(
                "Bearer",
                "this port needs the caller's own token: `Proxy-Authorization: Bearer <token>`",
            )
        });
    }
    match &face.login {
        Some(login) if !shown.is_some_and(|shown| login.admits_basic(shown.as_bytes())) => {
            Err(Refusal::proxy_login("Basic realm=\"causeway\"", "this port needs user and password"))
        }
        Some(_) | None => Ok(None),
    }
}
