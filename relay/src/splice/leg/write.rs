//! Towards the peer: pieces of messages framed and queued, what we owe ourselves in between, and the ends.
use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use proto::ws::{
    Role,
    frame::{HEADER_MAX, Header, Opcode, close_payload, close_reason, put_control},
    mask,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_write_buf;

use super::{super::Broke, Framing, Leg};
use crate::transport::ReadsAhead;

/// The front of a frame, and the key of what follows.
struct Head {
    header: [u8; HEADER_MAX],
    len: usize,
    key: [u8; 4],
}

impl Head {
    fn header(&self) -> &[u8] {
        &self.header[..self.len]
    }
}

impl<IO: AsyncRead + AsyncWrite + ReadsAhead + Unpin> Leg<IO> {
    /// Queues one piece of a message as it lies.
    pub(super) fn put(&mut self, opcode: Opcode, message: Opcode, fin: bool, mut payload: BytesMut) -> io::Result<()> {
        if let Some(head) = self.head(opcode, message, fin, payload.len())? {
            mask::apply(head.key, 0, &mut payload);
            self.output.push(head.header(), payload);
        }
        Ok(())
    }

    /// Queues a copy of one small piece of a message.
    pub(super) fn copy(&mut self, opcode: Opcode, message: Opcode, fin: bool, payload: &[u8]) -> io::Result<()> {
        if let Some(head) = self.head(opcode, message, fin, payload.len())? {
            self.output.copy(head.header(), head.key, payload);
        }
        Ok(())
    }

    /// What goes in front of a piece of this size; nothing for a piece that the peer does not get.
    fn head(&mut self, opcode: Opcode, message: Opcode, fin: bool, size: usize) -> io::Result<Option<Head>> {
        let mut header = [0; HEADER_MAX];
        match self.framing {
            Framing::Raw { skip_text: true } if message == Opcode::Text => Ok(None),
            Framing::Raw { .. } => Ok(Some(Head { header, len: 0, key: [0; 4] })),
            Framing::WebSocket(_) => {
                let mask = self.key()?;
                let len = Header { fin, opcode, mask, len: size as u64 }.encode(&mut header);
                self.mid_message = !fin;
                Ok(Some(Head { header, len, key: mask.unwrap_or_default() }))
            }
        }
    }

    /// Ends our direction as the other side's peer ended its own.
    pub(super) fn end_like(&mut self, payload: &[u8]) -> Result<(), Broke> {
        match (self.framing, close_reason(payload)) {
            (Framing::Raw { .. }, Some((code, _))) if code != 1000 => Err(Broke::Code(code)),
            _ => self.put_close(payload).map_err(Broke::To),
        }
    }

    pub(super) fn put_close(&mut self, payload: &[u8]) -> io::Result<()> {
        if self.closed {
            return Ok(());
        }
        if let Framing::WebSocket(_) = self.framing {
            let key = self.key()?;
            put_control(self.output.tail(), Opcode::Close, payload, key);
        }
        self.closed = true;
        Ok(())
    }

    /// Queues a Close of our own, where there is such a thing.
    pub(in crate::splice) fn close(&mut self, code: u16, reason: &str) {
        if let Framing::WebSocket(_) = self.framing {
            // Without random numbers there is no Close, and the peer sees an abrupt end.
            let _ = self.put_close(&close_payload(code, reason));
        }
    }

    fn key(&mut self) -> io::Result<Option<[u8; 4]>> {
        match self.framing {
            Framing::WebSocket(Role::Client) => self.keys.draw().map(Some),
            Framing::WebSocket(Role::Server) | Framing::Raw { .. } => Ok(None),
        }
    }

    /// Writes and flushes everything that is queued or owed; ready when nothing is left.
    pub(in crate::splice) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.output.has_remaining() && !self.queue_own()? {
                break;
            }
            let written = ready!(poll_write_buf(Pin::new(&mut self.io), cx, &mut self.output))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
            self.output.settle();
        }
        if self.closed && !self.shut_down && matches!(self.framing, Framing::Raw { .. }) {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            self.shut_down = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Moves what we owe into the empty output; false when that is nothing.
    fn queue_own(&mut self) -> io::Result<bool> {
        if !self.owes() {
            return Ok(false);
        }
        if let Some(payload) = self.pong.take() {
            let key = self.key()?;
            put_control(self.output.tail(), Opcode::Pong, &payload, key);
        } else if let Some(text) = self.notice.take() {
            self.copy(Opcode::Text, Opcode::Text, true, text.as_bytes())?;
        }
        Ok(true)
    }

    /// Sends the rest and ends the transport in order.
    pub(in crate::splice) async fn finish(&mut self) {
        if poll_fn(|cx| self.poll_send(cx)).await.is_ok() && self.closed && !self.shut_down {
            // The peer may have ended first; then there is nothing left to end.
            let _ = poll_fn(|cx| Pin::new(&mut self.io).poll_shutdown(cx)).await;
        }
    }
}
