//! The SOCKS5 face (RFC 1928): the client names the target, one connection is one stream. CONNECT is the only command;
//! a login (RFC 1929) is asked for where the face has one. Everything before the stream has one deadline.
use std::{sync::Arc, time::Duration};

use bytes::{Buf, BytesMut};
use proto::tunnel::failure::{Code, Failure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    Face,
    carry::{Carrier, Cut},
    farewell::farewell,
    refusal::By,
    socket::Socket,
};
use crate::connect::{access::Access, clusters::Lead};

mod message;

use message::{METHOD_LOGIN, METHOD_NONE, METHOD_REFUSED, Read, Reply, Wanted, Wrong};

/// Greeting, login and request: a few round trips of a client on this machine, or on its network.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// Why there is no stream.
#[derive(Debug)]
enum NoStream {
    /// The client went away.
    Gone,
    /// It is refused, with these last words.
    Refused(Failure, Vec<u8>),
}

impl From<std::io::Error> for NoStream {
    fn from(_: std::io::Error) -> Self {
        Self::Gone
    }
}

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
        Err(Cut::Refused(refusal)) => access.failed(&refusal.failure, refusal.by),
    }
}

async fn carry(face: &Face, client: &mut Socket, access: &mut Access) -> Result<(), Cut> {
    let mut ahead = BytesMut::with_capacity(message::MESSAGE_MAX);
    let negotiated = tokio::select! {
        biased;
        // Who has asked for nothing yet can be let go.
        () = face.shutdown.lingered() => Err(NoStream::Gone),
        negotiated = tokio::time::timeout(HEAD_DEADLINE, negotiate(face, client, &mut ahead)) => {
            negotiated.unwrap_or(Err(NoStream::Gone))
        }
    };
    let lead = match negotiated {
        Ok(lead) => lead,
        Err(NoStream::Gone) => return Err(Cut::Client),
        Err(NoStream::Refused(failure, words)) => {
            farewell(client, &words).await;
            return Err(Cut::Refused(Box::new(super::refusal::Refusal::ours(failure))));
        }
    };
    access.leads_to(&lead);
    let mut carrier = Carrier::new(client, lead, ahead, None);
    let joined = match carrier.connect(None, access).await {
        Ok(joined) => joined,
        Err(Cut::Stream(failure)) => {
            access.failed(&failure, By::of(&failure));
            carrier.say(&message::reply(answer_to(&failure))).await?;
            return Err(Cut::Stream(failure));
        }
        Err(cut) => return Err(cut),
    };
    carrier.say(&message::reply(Reply::Granted)).await?;
    carrier.pump(joined, &face.clusters.memory, access).await
}

/// From the greeting to the target.
async fn negotiate(face: &Face, client: &mut Socket, ahead: &mut BytesMut) -> Result<Lead, NoStream> {
    let wanted_method = if face.login.is_some() { METHOD_LOGIN } else { METHOD_NONE };
    let offered = take(client, ahead, |bytes| {
        Ok(message::greeting(bytes)?.map(|(methods, len)| (methods.contains(&wanted_method), len)))
    })
    .await?;
    if !offered {
        let text = if face.login.is_some() { "the client offers no login" } else { "the client insists on a login" };
        let failure = Failure::before_target(Code::Unauthenticated, text);
        return Err(NoStream::Refused(failure, message::method(METHOD_REFUSED).to_vec()));
    }
    client.write_all(&message::method(wanted_method)).await?;
    if let Some(login) = &face.login {
        let good = take(client, ahead, |bytes| {
            Ok(message::login(bytes)?.map(|((user, password), len)| (login.admits(user, password), len)))
        })
        .await?;
        if !good {
            let failure = Failure::before_target(Code::Unauthenticated, "user or password is wrong");
            return Err(NoStream::Refused(failure, message::verdict(false).to_vec()));
        }
        client.write_all(&message::verdict(true)).await?;
    }
    let Wanted { host, port } = take(client, ahead, message::request).await?;
    let lead = face.lead_named(&host, port);
    lead.map_err(|failure| NoStream::Refused(failure, message::reply(Reply::NotAllowed).to_vec()))
}

/// The next message; what follows it stays in `ahead`.
async fn take<T>(client: &mut Socket, ahead: &mut BytesMut, parse: impl Fn(&[u8]) -> Read<T>) -> Result<T, NoStream> {
    loop {
        match parse(ahead) {
            Ok(Some((message, len))) => {
                ahead.advance(len);
                return Ok(message);
            }
            // No message is longer than the buffer, so there is room for the rest of this one.
            Ok(None) => ahead.reserve(message::MESSAGE_MAX - ahead.len().min(message::MESSAGE_MAX)),
            Err(wrong) => return Err(refused(wrong)),
        }
        if client.read_buf(ahead).await? == 0 {
            return Err(NoStream::Gone);
        }
    }
}

fn refused(wrong: Wrong) -> NoStream {
    let words = wrong.reply().map(|reply| message::reply(reply).to_vec()).unwrap_or_default();
    NoStream::Refused(Failure::before_target(Code::InvalidRequest, wrong.to_string()), words)
}

/// The nearest of the protocol's few answers.
fn answer_to(failure: &Failure) -> Reply {
    match failure.code {
        Code::Unauthenticated | Code::TokenRefused | Code::PolicyDenied | Code::AddressRefused => Reply::NotAllowed,
        Code::TunnelLost | Code::Draining => Reply::NetworkUnreachable,
        Code::TargetUnresolved => Reply::HostUnreachable,
        Code::TargetRefused => Reply::Refused,
        Code::TargetTimeout => Reply::TimedOut,
        _ => Reply::Failed,
    }
}
