//! A client's connection beneath HTTP: bytes that were read to find out which version it speaks come first, and interim
//! answers (103 and the like), for which the HTTP/1.1 library has no way, are written between its own messages.
//!
//! An interim answer is only ever written where the library has nothing half written: whatever it wrote before has been
//! flushed. Where that does not hold the answer is left out, which is every server's right.
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::connect::face::socket::Socket;

/// The connection.
#[derive(Debug)]
pub(super) struct Wire {
    socket: Socket,
    ahead: Bytes,
    interim: Interim,
}

/// Where interim answers wait for their turn. Clones are the same place.
#[derive(Debug, Clone, Default)]
pub(super) struct Interim(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    waiting: BytesMut,
    /// Something was written that was not flushed yet.
    busy: bool,
}

impl Wire {
    /// `ahead` was read already.
    pub(super) fn new(socket: Socket, ahead: Bytes) -> Self {
        Self { socket, ahead, interim: Interim::default() }
    }

    /// Where to say interim answers.
    pub(super) fn interim(&self) -> Interim {
        self.interim.clone()
    }

    /// The connection alone, once HTTP is over on it.
    pub(super) fn into_socket(self) -> Socket {
        self.socket
    }

    /// Writes interim answers before anything else.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut queue = self.interim.queue();
        while !queue.waiting.is_empty() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, &queue.waiting))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            queue.waiting.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl Interim {
    /// Says an interim answer, or leaves it out.
    pub(super) fn say(&self, status: StatusCode, fields: &HeaderMap) {
        let mut queue = self.queue();
        if queue.busy {
            return;
        }
        let reason = status.canonical_reason().unwrap_or("Interim");
        queue.waiting.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).as_bytes());
        for (name, value) in fields {
            for piece in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                queue.waiting.extend_from_slice(piece);
            }
        }
        queue.waiting.extend_from_slice(b"\r\n");
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            return Pin::new(&mut this.socket).poll_read(cx, into);
        }
        let piece = this.ahead.split_to(this.ahead.len().min(into.remaining()));
        into.put_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_interim(cx))?;
        this.interim.queue().busy = true;
        Pin::new(&mut this.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_interim(cx))?;
        this.interim.queue().busy = true;
        Pin::new(&mut this.socket).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_interim(cx))?;
        ready!(Pin::new(&mut this.socket).poll_flush(cx))?;
        this.interim.queue().busy = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}
