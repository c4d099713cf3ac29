//! A client's connection after a change of protocol: bytes both ways until both directions are done. One side may finish
//! while the other goes on; a failure breaks the connection, so that nobody takes a cut for an end.

use std::sync::{Arc, atomic::Ordering};

use bytes::{Bytes, BytesMut};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use proto::{
    limits::DATA_SENT_MAX,
    tunnel::{
        client::Sender,
        failure::{Code, Failure},
        pb::{self, forward_response},
        receive::{Part, Receiver},
    },
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::connect::{access::Access, face::refusal::By};

/// First size of a read: most of what goes to a terminal is a key.
const READ_FIRST: usize = 8 * 1024;

/// Both directions of a stream.
#[derive(Debug)]
pub(super) struct Halves {
    pub(super) sender: Sender,
    pub(super) receiver: Receiver<pb::ForwardResponse>,
}

/// A pipe that begins when HTTP is done.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) upgraded: OnUpgrade,
    pub(super) halves: Halves,
    pub(super) access: Access,
}

/// How a pipe ended that did not end well.
enum Cut {
    Client,
    Stream(Failure),
}

impl Pipe {
    /// Carries it to its end.
    pub(super) async fn run(self) {
        let Self { upgraded, halves, mut access } = self;
        // Without the client's connection there is nobody to carry for; the access line says so.
        let Ok(upgraded) = upgraded.await else { return };
        match carry(TokioIo::new(upgraded), halves, &mut access).await {
            Ok(()) => access.completed(),
            Err(Cut::Client) => {}
            Err(Cut::Stream(failure)) => access.failed(&failure, By::of(&failure)),
        }
    }
}

async fn carry<IO>(client: IO, halves: Halves, access: &mut Access) -> Result<(), Cut>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (reading, writing) = tokio::io::split(client);
    let Halves { sender, receiver } = halves;
    let sent = Arc::clone(&access.sent);
    let up = up(reading, sender, |count| {
        sent.fetch_add(count, Ordering::Relaxed);
    });
    let down = down(receiver, writing, &mut access.received);
    tokio::pin!(up, down);
    let mut sending = true;
    loop {
        tokio::select! {
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

/// From the client to the stream.
async fn up(mut client: impl AsyncRead + Unpin, mut sender: Sender, sent: impl Fn(u64)) -> Result<(), Cut> {
    let mut buffer = BytesMut::new();
    let mut size = READ_FIRST;
    loop {
        buffer.reserve(size);
        match client.read_buf(&mut buffer).await {
            Ok(0) => return sender.fin(pb::Fin::default()).await.map_err(Cut::Stream),
            Ok(read) => {
                // A sender that fills what it is given gets more, up to two full messages.
                size = if read >= size { (size * 2).min(2 * DATA_SENT_MAX) } else { size };
                let bytes: Bytes = buffer.split().freeze();
                sender.data(bytes).await.map_err(Cut::Stream)?;
                sent(read as u64);
            }
            Err(_) => return Err(Cut::Client),
        }
    }
}

/// From the stream to the client, until the call is over.
async fn down(
    mut receiver: Receiver<pb::ForwardResponse>,
    mut client: impl AsyncWrite + Unpin,
    received: &mut u64,
) -> Result<(), Cut> {
    loop {
        match receiver.next().await {
            None => return Ok(()),
            Some(Ok(Part::Data(bytes))) => {
                client.write_all(&bytes).await.map_err(|_| Cut::Client)?;
                client.flush().await.map_err(|_| Cut::Client)?;
                receiver.taken(bytes.len());
                *received += bytes.len() as u64;
            }
            Some(Ok(Part::Message(pb::ForwardResponse { part: Some(forward_response::Part::Fin(_)) }))) => {
                // The client may have closed its reading side already, and go on sending.
                let _ = client.shutdown().await;
            }
            Some(Ok(Part::Message(_))) => {
                let failure = Failure::after_target(Code::ProtocolError, "a message that has no place in a pipe");
                return Err(Cut::Stream(failure));
            }
            Some(Err(failure)) => return Err(Cut::Stream(failure)),
        }
    }
}
