//! A WebSocket as a byte stream: `AsyncRead + AsyncWrite` in which message boundaries mean nothing.
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};

use super::Role;

/// A byte stream carried in binary messages of at most 64 KiB. Vectored writes put one header around many slices.
/// Answers Ping by itself; `poll_shutdown` sends Close 1000; a peer's Close reads as end of stream, anything abrupt as an error.
#[derive(Debug)]
pub struct WsStream<IO> {
    io: IO,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> WsStream<IO> {
    /// `read_ahead` holds bytes that came behind the handshake.
    pub fn new(io: IO, role: Role, read_ahead: BytesMut) -> Self {
        let _ = (role, read_ahead);
        Self { io }
    }

    /// Text messages (drain notices) arrive here, at most 1 KiB each and 4 waiting; more are dropped. Without a call
    /// to this, text messages are skipped.
    pub fn notices(&mut self) -> mpsc::Receiver<String> {
        todo!()
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for WsStream<IO> {
    fn poll_read(self: Pin<&mut Self>, _cx: &mut Context<'_>, _buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        todo!()
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WsStream<IO> {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, _buf: &[u8]) -> Poll<io::Result<usize>> {
        todo!()
    }
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        todo!()
    }
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = &self.io;
        todo!()
    }
}
