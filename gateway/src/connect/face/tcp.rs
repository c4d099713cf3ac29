//! The TCP face: one connection, one stream. Bytes go from socket to stream and back without being gathered; each
//! direction ends by itself; a failure resets the connection, so that nobody takes a cut for an end.
use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use bytes::{Bytes, BytesMut};
use proto::{
    limits::DATA_SENT_MAX,
    tunnel::{
        client::Sender,
        failure::{Code, Failure},
        pb::{self, forward_response},
        receive::{Part, Receiver},
    },
};
use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
};

use super::{Face, head, refusal::By};
use crate::connect::{
    access::Access,
    tunnels::{ATTEMPTS_MAX, Stream, is_repeatable},
};

/// First size of a read: an idle or chatty connection needs no more.
const READ_FIRST: usize = 8 * 1024;
/// Largest read: two full messages, so that bulk pays few system calls and leaves no runt.
const READ_MAX: usize = 2 * DATA_SENT_MAX;

/// How a connection ended that did not end well.
#[derive(Debug)]
enum Cut {
    /// The client went away or broke the connection.
    Client,
    /// The stream failed.
    Stream(Failure),
}

impl From<Failure> for Cut {
    fn from(failure: Failure) -> Self {
        Self::Stream(failure)
    }
}

/// Carries one connection to its end.
pub(super) async fn serve(face: Arc<Face>, mut client: TcpStream) {
    let mut access = face.access();
    let ended = tokio::select! {
        biased;
        () = face.shutdown.forced() => Err(Cut::Stream(Failure::perhaps(Code::Cancelled, "the connector ends"))),
        ended = Box::pin(carry(&face, &mut client, &mut access)) => ended,
    };
    match ended {
        Ok(()) => access.completed(),
        Err(cut) => {
            if let Cut::Stream(failure) = &cut {
                access.failed(failure, By::of(failure));
            }
            // A reset, not an end. If it cannot be set, closing is all that is left.
            let _ = client.set_zero_linger();
        }
    }
}

async fn carry(face: &Face, client: &mut TcpStream, access: &mut Access) -> Result<(), Cut> {
    let (reading, mut writing) = client.split();
    let mut reading = Reading { half: reading, buffer: BytesMut::new(), size: READ_FIRST };
    let mut first = None;
    let mut attempt = 1;
    let (sender, receiver) = loop {
        let stream = face.tunnels.open(|| head::open_tcp(&face.target, access.stream)).await?;
        access.carried_by(stream.tunnel.id, stream.tunnel.way);
        match connect(stream, &mut reading, &mut first).await {
            Ok(halves) => break halves,
            Err(Cut::Stream(failure)) if is_repeatable(&failure) && attempt < ATTEMPTS_MAX => attempt += 1,
            Err(cut) => return Err(cut),
        }
    };
    access.answered(None);
    let sent = Arc::clone(&access.sent);
    let taken = first.as_ref().map_or(0, Bytes::len) as u64;
    sent.store(taken, Ordering::Relaxed);
    let up = async {
        let mut sender = sender;
        // An empty first read was the client's end.
        let mut open = first.is_none_or(|first| !first.is_empty());
        while open {
            let bytes = reading.next().await.map_err(|_| Cut::Client)?;
            open = !bytes.is_empty();
            if open {
                let len = bytes.len() as u64;
                sender.data(bytes).await?;
                sent.fetch_add(len, Ordering::Relaxed);
            }
        }
        sender.fin(pb::Fin::default()).await.map_err(Cut::Stream)
    };
    let down = down(receiver, &mut writing, &mut access.received);
    tokio::pin!(up, down);
    let mut sending = true;
    loop {
        tokio::select! {
            ended = &mut up, if sending => match ended {
                Ok(()) => sending = false,
                Err(Cut::Client) => return Err(Cut::Client),
                // The receiving half knows better why.
                Err(Cut::Stream(failure)) => return Err((&mut down).await.err().unwrap_or(Cut::Stream(failure))),
            },
            ended = &mut down => return ended,
        }
    }
}

/// Waits until the target has accepted. Meanwhile the client's first bytes go ahead, and are kept for another attempt.
async fn connect(
    stream: Stream,
    reading: &mut Reading<'_>,
    first: &mut Option<Bytes>,
) -> Result<(Sender, Receiver<pb::ForwardResponse>), Cut> {
    let Stream { tunnel, mut sender, mut receiver } = stream;
    let mut sent = false;
    loop {
        if let Some(bytes) = first.as_ref().filter(|bytes| !sent && !bytes.is_empty()) {
            sent = true;
            // A failure is told by the receiving half, too, and better.
            let _ = sender.data(bytes.clone()).await;
        }
        tokio::select! {
            biased;
            part = receiver.next() => return match part {
                Some(Ok(Part::Message(pb::ForwardResponse { part: Some(forward_response::Part::Connected(_)) }))) => {
                    Ok((sender, receiver))
                }
                Some(Err(failure)) => {
                    if failure.code == Code::Unauthenticated {
                        tunnel.renew_actor();
                    }
                    Err(failure.into())
                }
                _ => Err(Failure::perhaps(Code::ProtocolError, "the gateway did not say `connected` first").into()),
            },
            bytes = reading.next(), if first.is_none() => *first = Some(bytes.map_err(|_| Cut::Client)?),
        }
    }
}

/// From the stream to the client, until the call is over.
async fn down(
    mut receiver: Receiver<pb::ForwardResponse>,
    writing: &mut WriteHalf<'_>,
    received: &mut u64,
) -> Result<(), Cut> {
    loop {
        match receiver.next().await {
            None => return Ok(()),
            Some(Ok(Part::Data(bytes))) => {
                writing.write_all(&bytes).await.map_err(|_| Cut::Client)?;
                receiver.taken(bytes.len());
                *received += bytes.len() as u64;
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

/// Reads that grow with the traffic. Memory is taken only once there is something to read.
struct Reading<'a> {
    half: ReadHalf<'a>,
    buffer: BytesMut,
    size: usize,
}

impl Reading<'_> {
    /// The next bytes; empty at the end. Cancel-safe.
    async fn next(&mut self) -> io::Result<Bytes> {
        loop {
            self.half.readable().await?;
            // What is left of the last allocation is used as long as it is worth a system call.
            if self.buffer.capacity() < self.size / 2 {
                self.buffer.reserve(self.size);
            }
            let room = self.buffer.capacity();
            match self.half.try_read_buf(&mut self.buffer) {
                Ok(read) => {
                    if read == room && self.size < READ_MAX {
                        self.size = (self.size * 2).min(READ_MAX);
                    }
                    return Ok(self.buffer.split().freeze());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}
