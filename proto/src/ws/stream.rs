//! A WebSocket as a byte stream: `AsyncRead + AsyncWrite` in which message boundaries mean nothing.
//!
//! *Writing* puts one binary frame around as many of the caller's slices as fit [`FRAME_MAX`]. A server hands header and
//! slices to the transport as they are; a client copies and masks them in one pass into one buffer. Bytes reported as
//! accepted are on their way or in that buffer, whatever the caller does next: a write that is cancelled never leaves a
//! half-announced frame behind. *Reading* goes straight into the caller's buffer, where payload is unmasked in place and
//! closed up over the headers in between.
//!
//! Ends: the peer's Close reads as end of stream, whatever its code ([`WsStream::close_code`] tells), and our side may go
//! on writing until `poll_shutdown`, whose Close then echoes the peer's code; so each direction ends by itself, as with
//! TCP. Whoever cannot tell by the bytes themselves whether they are all asks for [`WsStream::whole_or_error`]. A
//! transport that ends without Close is an `UnexpectedEof` error, a broken rule an `InvalidData` error with the
//! [`super::frame::DecodeError`] inside. Nothing is held while idle but the state itself and, once a client wrote, its
//! key pool.
use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};

use super::Role;

mod inbound;
mod notices;
mod outbound;
mod outgoing;
#[cfg(test)]
mod tests;

use inbound::Inbound;
use outbound::Outbound;

/// Largest frame that we send, header included: four full TLS records and what rustls takes at once by default, so no
/// frame ends in a runt record. Receivers stream, hence a larger frame would gain nothing and delay a Pong.
pub const FRAME_MAX: usize = 64 * 1024;

/// The peer closed, and not because its data is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("closed with code {0}, by which the data need not be complete")]
pub struct CutShort(
    /// Its Close's code.
    pub u16,
);

/// A byte stream carried in binary messages of at most 64 KiB. Vectored writes put one header around many slices.
/// Answers Ping by itself; `poll_shutdown` sends Close 1000; a peer's Close reads as end of stream, anything abrupt as an error.
///
/// `poll_shutdown` ends our direction only; to learn that the peer has taken everything, read to the end after it.
#[derive(Debug)]
pub struct WsStream<IO> {
    io: IO,
    inbound: Inbound,
    outbound: Outbound,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> WsStream<IO> {
    /// `read_ahead` holds bytes that came behind the handshake.
    pub fn new(io: IO, role: Role, read_ahead: BytesMut) -> Self {
        Self { io, inbound: Inbound::new(role, read_ahead), outbound: Outbound::new(role) }
    }

    /// Text messages (drain notices) arrive here, at most 1 KiB each and 4 waiting; more are dropped. Without a call
    /// to this, text messages are skipped, unless [`Self::with_text`] wants them.
    pub fn notices(&mut self) -> mpsc::Receiver<String> {
        self.inbound.notices.open()
    }

    /// The code of the peer's Close once it was read; 1005 if it carried none (RFC 6455 section 7.1.5).
    pub fn close_code(&self) -> Option<u16> {
        self.inbound.close_code()
    }

    /// Has a Close that does not mean that the peer's data is complete, one with a code other than 1000, read as an error:
    /// `ConnectionAborted` with [`CutShort`] inside.
    pub fn whole_or_error(mut self) -> Self {
        self.inbound.refuse_cuts();
        self
    }

    /// Has text messages read as bytes like binary ones, where nobody agreed on what text means: a peer that sends text
    /// means its words to arrive. There are no notices then.
    pub fn with_text(mut self) -> Self {
        self.inbound.take_text();
        self
    }

    /// The transport below, for its addresses and certificates.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    /// The transport below, for its settings; its bytes are not to be touched.
    pub fn get_mut(&mut self) -> &mut IO {
        &mut self.io
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for WsStream<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { io, inbound, outbound } = self.get_mut();
        let before = buf.filled().len();
        let outcome = inbound.poll_fill(io, cx, buf);
        if let Some(owed) = inbound.take_owed() {
            outbound.owe(owed);
        }
        outbound.poll_answer(io, cx);
        if buf.filled().len() > before { Poll::Ready(Ok(())) } else { outcome }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WsStream<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { io, outbound, .. } = self.get_mut();
        outbound.poll_frame(io, cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, outbound, .. } = self.get_mut();
        outbound.poll_flush(io, cx)
    }

    /// Sends what is left and Close. The transport itself is shut down only when the peer's Close has been read too:
    /// many peers take the end of TCP for the end of both directions.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, inbound, outbound } = self.get_mut();
        ready!(outbound.poll_close(io, cx))?;
        if inbound.ended() { Pin::new(io).poll_shutdown(cx) } else { Poll::Ready(Ok(())) }
    }
}
