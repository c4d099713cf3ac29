//! A TCP stream: bytes both ways until both directions are done. Credit goes back to the caller when the target has
//! taken the bytes, and nothing is read from the target while the caller has no credit for it, so that nothing piles up
//! here. One side may finish while the other goes on. A stream that ends badly resets the target's connection, so that
//! half of a file is never taken for the whole.

use std::io;

use bytes::BytesMut;
use proto::tunnel::{
    failure::{Code, Failure},
    pb::{Fin, ForwardRequest, forward_request},
    receive::{Part, Receiver},
    server::Sender,
};
use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
};

use crate::serve::session::record::Traffic;

/// First read of a connection: most streams are small or wait for long.
const READ_MIN: usize = 8 * 1024;

/// Reads grow to this while they come back full; more than this gains nothing measurable.
const READ_MAX: usize = 128 * 1024;

/// Carries bytes until both directions are done.
///
/// # Errors
/// The failure of whichever side broke first.
pub async fn carry(
    target: TcpStream,
    receiver: &mut Receiver<ForwardRequest>,
    sender: &mut Sender,
    traffic: &Traffic,
) -> Result<(), Failure> {
    let mut target = Target { stream: target, complete: false };
    let (read, write) = target.stream.split();
    let both = async { tokio::try_join!(to_target(receiver, write, traffic), to_caller(read, sender, traffic)) };
    let ended = both.await;
    target.complete = ended.is_ok();
    ended.map(|_| ())
}

/// The target's connection, reset unless both directions were completed: also when the stream is dropped in the middle,
/// because its tunnel was cut or its grant revoked.
struct Target {
    stream: TcpStream,
    complete: bool,
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.complete {
            // The target learns that this was no good end. If that fails, it learns by silence.
            let _ = self.stream.set_zero_linger();
        }
    }
}

async fn to_target(
    receiver: &mut Receiver<ForwardRequest>,
    mut target: WriteHalf<'_>,
    traffic: &Traffic,
) -> Result<(), Failure> {
    loop {
        match receiver.next().await {
            Some(Ok(Part::Data(bytes))) => {
                target.write_all(&bytes).await.map_err(|error| broken("writing to", &error))?;
                receiver.taken(bytes.len());
                traffic.sent(bytes.len());
            }
            Some(Ok(Part::Message(ForwardRequest { part: Some(forward_request::Part::Fin(_)) }))) => break,
            Some(Ok(Part::Message(_))) => {
                return Err(Failure::after_target(Code::ProtocolError, "the caller sent `open` twice"));
            }
            Some(Err(failure)) => return Err(failure),
            None => return Err(Failure::after_target(Code::ProtocolError, "the caller ended without `fin`")),
        }
    }
    match target.shutdown().await {
        // The target has gone already, which its own direction tells.
        Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(broken("closing", &error)),
        _ => Ok(()),
    }
}

async fn to_caller(target: ReadHalf<'_>, sender: &mut Sender, traffic: &Traffic) -> Result<(), Failure> {
    let mut size = READ_MIN;
    let mut buffer = BytesMut::new();
    loop {
        // No buffer is held while the target is silent.
        tokio::select! {
            biased;
            ready = target.readable() => ready.map_err(|error| broken("reading from", &error))?,
            () = sender.cancelled() => return Err(Failure::after_target(Code::Cancelled, "the caller gave the stream up")),
        }
        buffer.reserve(size);
        let read = match target.try_read_buf(&mut buffer) {
            Ok(0) => return sender.fin(Fin::default()).await,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(broken("reading from", &error)),
        };
        traffic.received(read);
        let bytes = std::mem::take(&mut buffer).freeze();
        sender.data(bytes).await?;
        size = if read >= size { (size * 2).min(READ_MAX) } else { read.next_power_of_two().clamp(READ_MIN, READ_MAX) };
    }
}

fn broken(doing: &str, error: &io::Error) -> Failure {
    Failure::after_target(Code::TargetBroken, format!("{doing} the target failed: {error}"))
}
