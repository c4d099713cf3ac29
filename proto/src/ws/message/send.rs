//! The writing half: a handle that queues, and the future that writes.
use std::{io, sync::Arc, time::Duration};

use bytes::{BufMut, BytesMut};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt, WriteHalf},
    time::timeout,
};

use super::{
    ChannelError, Message, Piece, Role,
    outbox::{Batch, Outbox, Owners, Turn},
};
use crate::ws::{
    frame::{HEADER_MAX, Header, Opcode, close_payload, put_control},
    keys::Keys,
    mask,
};

/// The writing half; cheap to clone; `send` waits for room.
#[derive(Debug, Clone)]
pub struct Sender {
    owners: Arc<Owners>,
}

impl Sender {
    pub(super) fn new(owners: Arc<Owners>) -> Self {
        Self { owners }
    }

    /// Queues one batch; several messages given together stay adjacent, each as one unfragmented frame. Waits while
    /// [`super::BATCHES_WAITING`] batches wait; fails with [`ChannelError::Ended`] when the channel has ended. Queued is
    /// not written: the channel may still end before it is.
    pub async fn send(&self, messages: Vec<Message>) -> Result<(), ChannelError> {
        self.owners.push(Batch::Messages(messages)).await
    }

    /// Queues one piece of a binary message as a frame of its own, once everything before it is written: so a reader that
    /// stalls leaves one piece waiting, however long the message. From a message's first piece to its last nothing else
    /// may be given to be sent.
    pub async fn send_piece(&self, piece: Piece) -> Result<(), ChannelError> {
        self.owners.push_alone(Batch::Piece(piece)).await
    }
}

/// Writes turn by turn until the channel is over; `stall` bounds one turn. Dropped, even before its first poll, it ends
/// the channel.
pub(super) fn write<IO: AsyncWrite + Send>(
    io: WriteHalf<IO>,
    outbox: Arc<Outbox>,
    role: Role,
    stall: Duration,
) -> impl Future<Output = ()> + Send {
    let ended = Ended(outbox);
    async move { turns(io, &ended.0, role, stall).await }
}

async fn turns<IO: AsyncWrite>(mut io: WriteHalf<IO>, outbox: &Outbox, role: Role, stall: Duration) {
    let mut keys = Keys::default();
    loop {
        let turn = outbox.turn().await;
        let batch = matches!(turn, Turn::Batch(_));
        let (bytes, last) = match encode(turn, role, &mut keys) {
            Ok(encoded) => encoded,
            Err(error) => return tracing::warn!(%error, "message channel cannot mask"),
        };
        match timeout(stall, put(&mut io, bytes)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return tracing::debug!(%error, "message channel cannot be written"),
            Err(_) => return tracing::debug!(?stall, "peer takes nothing from the message channel"),
        }
        if batch {
            outbox.written();
        }
        if last {
            break;
        }
    }
    // Both directions are over: only then may the transport end, because many peers take that for the end of both.
    if outbox.peer_closed() {
        let _ = timeout(stall, io.shutdown()).await;
    }
}

/// Tells the senders, however the writer ends.
struct Ended(Arc<Outbox>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.end();
    }
}

async fn put<IO: AsyncWrite>(io: &mut WriteHalf<IO>, bytes: BytesMut) -> io::Result<()> {
    io.write_all(&bytes).await?;
    io.flush().await
}

/// The frames of one turn, and whether it is the last.
fn encode(turn: Turn, role: Role, keys: &mut Keys) -> io::Result<(BytesMut, bool)> {
    let mut key = || match role {
        Role::Client => keys.draw().map(Some),
        Role::Server => Ok(None),
    };
    let mut out = BytesMut::new();
    match turn {
        Turn::Pong(payload) => put_control(&mut out, Opcode::Pong, &payload, key()?),
        Turn::Ping => put_control(&mut out, Opcode::Ping, &[], key()?),
        Turn::Finish => return Ok((out, true)),
        Turn::Close(close) => {
            put_close(&mut out, close, key()?);
            return Ok((out, true));
        }
        Turn::Batch(Batch::Piece(Piece { bytes, first, last })) => {
            let opcode = if first { Opcode::Binary } else { Opcode::Continuation };
            put_data(&mut out, opcode, last, &bytes, key()?);
        }
        Turn::Batch(Batch::Messages(messages)) => {
            for message in messages {
                match message {
                    Message::Text(text) => put_data(&mut out, Opcode::Text, true, text.as_bytes(), key()?),
                    Message::Binary(bytes) => put_data(&mut out, Opcode::Binary, true, &bytes, key()?),
                    Message::Close(close) => {
                        put_close(&mut out, close, key()?);
                        return Ok((out, true));
                    }
                }
            }
        }
    }
    Ok((out, false))
}

fn put_close(out: &mut BytesMut, close: Option<(u16, String)>, key: Option<[u8; 4]>) {
    let payload = close.map(|(code, reason)| close_payload(code, &reason)).unwrap_or_default();
    put_control(out, Opcode::Close, &payload, key);
}

fn put_data(out: &mut BytesMut, opcode: Opcode, fin: bool, payload: &[u8], key: Option<[u8; 4]>) {
    let mut header = [0; HEADER_MAX];
    let len = Header { fin, opcode, mask: key, len: payload.len() as u64 }.encode(&mut header);
    out.reserve(len + payload.len());
    out.put_slice(&header[..len]);
    let at = out.len();
    out.put_slice(payload);
    mask::apply(key.unwrap_or_default(), 0, &mut out[at..]);
}
