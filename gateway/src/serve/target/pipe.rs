//! Bytes both ways until both directions are done: a TCP stream, a Unix socket, a connection after an upgrade. Credit goes back to the caller when the target has
//! taken the bytes, and nothing is read from the target while the caller has no credit for it, so that nothing piles up
//! here. One side may finish while the other goes on. A stream that ends badly resets the target's connection, so that
//! half of a file is never taken for the whole.

use std::{io, pin::pin};

use bytes::{Bytes, BytesMut};
use proto::tunnel::{
    failure::{Code, Failure},
    pb::{Fin, ForwardRequest, forward_request},
    receive::{Part, Receiver},
    server::Sender,
};
use tokio::io::AsyncWriteExt;

use super::wire::{ReadHalf, Wire, WriteHalf};
use crate::serve::session::record::Traffic;

/// First read of a connection: most streams are small or wait for long.
const READ_MIN: usize = 8 * 1024;

/// Reads grow to this while they come back full; more than this gains nothing measurable.
const READ_MAX: usize = 128 * 1024;

/// Carries bytes until both directions are done. `early` was read from the target already.
///
/// # Errors
/// The failure of whichever side broke first.
pub async fn carry(
    target: Wire,
    early: Bytes,
    receiver: &mut Receiver<ForwardRequest>,
    sender: &mut Sender,
    traffic: &Traffic,
) -> Result<(), Failure> {
    let mut target = Target { wire: target, complete: false };
    let (read, write) = target.wire.split();
    let ended = both(to_target(receiver, write, traffic), read, early, sender, traffic).await;
    target.complete = ended.is_ok();
    ended
}

/// Both directions. The one to the target goes on alone when the other is done, unless the caller gives the stream up: it
/// may wait for a target that takes nothing.
async fn both(
    to_target: impl Future<Output = Result<(), Failure>>,
    read: ReadHalf<'_>,
    early: Bytes,
    sender: &mut Sender,
    traffic: &Traffic,
) -> Result<(), Failure> {
    let mut to_target = pin!(to_target);
    let mut written = false;
    {
        let mut to_caller = pin!(to_caller(read, early, sender, traffic));
        loop {
            tokio::select! {
                biased;
                ended = &mut to_target, if !written => {
                    ended?;
                    written = true;
                }
                ended = &mut to_caller => break ended?,
            }
        }
    }
    if written {
        return Ok(());
    }
    tokio::select! {
        biased;
        ended = &mut to_target => ended,
        () = sender.cancelled() => Err(given_up()),
    }
}

fn given_up() -> Failure {
    Failure::after_target(Code::Cancelled, "the caller gave the stream up")
}

/// The target's connection, reset unless both directions were completed: also when the stream is dropped in the middle,
/// because its tunnel was cut or its grant revoked.
struct Target {
    wire: Wire,
    complete: bool,
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.complete {
            self.wire.break_off();
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
                let writing = async {
                    target.write_all(&bytes).await?;
                    // Only TLS keeps anything back.
                    target.flush().await
                };
                let written = traffic.blocked_to_target.on(writing).await;
                written.map_err(|error| broken("writing to", &error))?;
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

async fn to_caller(
    mut target: ReadHalf<'_>,
    early: Bytes,
    sender: &mut Sender,
    traffic: &Traffic,
) -> Result<(), Failure> {
    if !early.is_empty() {
        traffic.received(early.len());
        sender.data(early).await?;
    }
    let mut size = READ_MIN;
    let mut buffer = BytesMut::new();
    loop {
        let read = tokio::select! {
            biased;
            read = target.arrived(&mut buffer, size) => read.map_err(|error| broken("reading from", &error))?,
            () = sender.cancelled() => return Err(given_up()),
        };
        if read == 0 {
            return sender.fin(Fin::default()).await;
        }
        traffic.received(read);
        let bytes = std::mem::take(&mut buffer).freeze();
        traffic.blocked_to_caller.on(sender.data(bytes)).await?;
        size = if read >= size { (size * 2).min(READ_MAX) } else { read.next_power_of_two().clamp(READ_MIN, READ_MAX) };
    }
}

fn broken(doing: &str, error: &io::Error) -> Failure {
    Failure::after_target(Code::TargetBroken, format!("{doing} the target failed: {error}"))
}
