//! One connection as one stream, for every face that carries bytes. They go from socket to stream and back without being
//! gathered; each direction ends by itself; a failure breaks the connection, so that nobody takes a cut for an end.
use std::sync::{Arc, atomic::Ordering};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, header};
use proto::tunnel::{
    client::Sender,
    failure::{Code, Failure},
    pb::{self, forward_response},
    receive::{Part, Receiver},
};
use tokio::io::AsyncWriteExt;

use super::{
    head,
    reading::{ReadError, Reading},
    refusal::Refusal,
    socket::{Socket, WriteHalf},
    vet::Vet,
};
use crate::{
    blocked::Blocked,
    connect::{
        access::Access,
        bulk::{Memory, Watched},
        clusters::Lead,
        tunnels::{ATTEMPTS_MAX, Stream, Tunnel, is_repeatable},
    },
};

/// How a connection ended that did not end well.
#[derive(Debug)]
pub(super) enum Cut {
    /// The client went away or broke the connection.
    Client,
    /// The stream failed.
    Stream(Failure),
    /// What the client says may not be carried.
    Refused(Box<Refusal>),
}

impl From<Failure> for Cut {
    fn from(failure: Failure) -> Self {
        Self::Stream(failure)
    }
}

impl From<ReadError> for Cut {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Broken => Self::Client,
            ReadError::Refused(refusal) => Self::Refused(refusal),
        }
    }
}

/// A client's connection on its way to a target.
#[derive(Debug)]
pub(super) struct Carrier<'a> {
    lead: Lead,
    reading: Reading<'a>,
    writing: WriteHalf<'a>,
    /// What was read before the target was there; empty: the client's end.
    first: Option<Bytes>,
}

/// A stream whose target has accepted.
#[derive(Debug)]
pub(super) struct Joined {
    sender: Sender,
    receiver: Receiver<pb::ForwardResponse>,
    tunnel: Arc<Tunnel>,
}

impl<'a> Carrier<'a> {
    /// `ahead` was read already; `vet` judges what is read.
    pub(super) fn new(client: &'a mut Socket, lead: Lead, ahead: BytesMut, vet: Option<Vet<'a>>) -> Self {
        let (reading, writing) = client.split();
        Self { lead, reading: Reading::new(reading, ahead, vet), writing, first: None }
    }

    /// Opens the stream and waits until the target has accepted.
    pub(super) async fn connect(&mut self, subject: Option<&HeaderValue>, access: &mut Access) -> Result<Joined, Cut> {
        let mut attempt = 1;
        loop {
            let make = || {
                let (mut metadata, open) = access.traced(head::open_tcp(&self.lead.target, access.stream));
                if let Some(subject) = subject {
                    metadata.insert(header::AUTHORIZATION, subject.clone());
                }
                (metadata, open)
            };
            let stream = self.lead.tunnels.open(make).await?;
            access.carried_by(stream.tunnel.id, stream.tunnel.way);
            match self.join(stream).await {
                Ok(joined) => {
                    access.answered(None);
                    return Ok(joined);
                }
                Err(Cut::Stream(failure)) if is_repeatable(&failure) && attempt < ATTEMPTS_MAX => attempt += 1,
                Err(cut) => return Err(cut),
            }
        }
    }

    /// Meanwhile the client's first bytes go ahead, and are kept for another attempt.
    async fn join(&mut self, stream: Stream) -> Result<Joined, Cut> {
        let Stream { tunnel, mut sender, mut receiver } = stream;
        let mut sent = false;
        loop {
            if let Some(bytes) = self.first.as_ref().filter(|bytes| !sent && !bytes.is_empty()) {
                sent = true;
                // A failure is told by the receiving half, too, and better.
                let _ = sender.data(bytes.clone()).await;
            }
            tokio::select! {
                biased;
                part = receiver.next() => return match part {
                    Some(Ok(Part::Message(pb::ForwardResponse { part: Some(forward_response::Part::Connected(_)) }))) => {
                        Ok(Joined { sender, receiver, tunnel })
                    }
                    Some(Err(failure)) => {
                        if failure.code == Code::Unauthenticated {
                            tunnel.renew_actor();
                        }
                        Err(failure.into())
                    }
                    _ => Err(Failure::perhaps(Code::ProtocolError, "the gateway did not say `connected` first").into()),
                },
                bytes = self.reading.next(), if self.first.is_none() => self.first = Some(bytes?),
            }
        }
    }

    /// Tells the client something of our own.
    pub(super) async fn say(&mut self, bytes: &[u8]) -> Result<(), Cut> {
        self.writing.write_all(bytes).await.map_err(|_| Cut::Client)
    }

    /// Carries both directions to their ends.
    pub(super) async fn pump(self, joined: Joined, memory: &Memory, access: &mut Access) -> Result<(), Cut> {
        let Self { lead, mut reading, mut writing, first, .. } = self;
        let Joined { mut sender, receiver, tunnel } = joined;
        let watched = Watched::new(&tunnel, Some((memory.clone(), lead.target)));
        // Held no longer than its streams need it.
        drop(tunnel);
        let (sent, blocked) = (Arc::clone(&access.sent), access.blocked_to_target.clone());
        let taken = first.as_ref().map_or(0, Bytes::len) as u64;
        sent.store(taken, Ordering::Relaxed);
        let up = async {
            // An empty first read was the client's end.
            let mut open = first.is_none_or(|first| !first.is_empty());
            while open {
                let bytes = reading.next().await?;
                open = !bytes.is_empty();
                if open {
                    let len = bytes.len();
                    blocked.on(sender.data(bytes)).await?;
                    sent.fetch_add(len as u64, Ordering::Relaxed);
                    watched.moved(len);
                }
            }
            sender.fin(pb::Fin::default()).await.map_err(Cut::Stream)
        };
        let hold = receiver.hold();
        let down = down(receiver, &mut writing, &watched, &access.blocked_to_client, &mut access.received);
        tokio::pin!(up, down);
        let mut sending = true;
        loop {
            tokio::select! {
                biased;
                failure = hold.cut() => return Err(Cut::Stream(failure)),
                ended = &mut up, if sending => match ended {
                    Ok(()) => sending = false,
                    // The receiving half knows better why.
                    Err(Cut::Stream(failure)) => return Err((&mut down).await.err().unwrap_or(Cut::Stream(failure))),
                    Err(cut) => return Err(cut),
                },
                ended = &mut down => return ended,
            }
        }
    }
}

/// Carries a connection whose protocol has changed; `ahead` was read already.
pub(super) async fn upgraded(
    client: &mut Socket,
    ahead: BytesMut,
    lead: Lead,
    Stream { tunnel, sender, receiver }: Stream,
    memory: &Memory,
    access: &mut Access,
) -> Result<(), Cut> {
    Carrier::new(client, lead, ahead, None).pump(Joined { sender, receiver, tunnel }, memory, access).await
}

/// From the stream to the client, until the call is over.
async fn down(
    mut receiver: Receiver<pb::ForwardResponse>,
    writing: &mut WriteHalf<'_>,
    watched: &Watched,
    blocked: &Blocked,
    received: &mut u64,
) -> Result<(), Cut> {
    loop {
        match receiver.next().await {
            None => return Ok(()),
            Some(Ok(Part::Data(bytes))) => {
                blocked.on(writing.write_all(&bytes)).await.map_err(|_| Cut::Client)?;
                receiver.taken(bytes.len());
                *received += bytes.len() as u64;
                watched.moved(bytes.len());
            }
            Some(Ok(Part::Message(pb::ForwardResponse { part: Some(forward_response::Part::Fin(_)) }))) => {
                // The client may have closed its reading side already, and go on sending.
                let _ = writing.shutdown().await;
            }
            Some(Ok(Part::Message(_))) => {
                return Err(
                    Failure::after_target(Code::ProtocolError, "a message that has no place in a TCP stream").into()
                );
            }
            Some(Err(failure)) => return Err(failure.into()),
        }
    }
}
