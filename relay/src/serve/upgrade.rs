//! From hyper's hands back into ours: the transport of a connection whose upgrade was answered.
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use hyper::upgrade::OnUpgrade;
use proto::ws::handshake;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use super::{sources::Connected, turns::Timed};
use crate::transport::{Ahead, Link, ReadsAhead};

/// What a connection that the relay accepted is made of.
pub(crate) type Transport = Link<TlsStream<Ahead<TcpStream>>>;

/// A connection that the relay accepted. It counts for its address until it is dropped.
#[derive(Debug)]
pub(crate) struct Accepted {
    io: Transport,
    _connected: Connected,
}

/// How long a 101 may take to leave. It is one packet into an empty socket buffer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// Waits until the 101 is out and takes the connection over. `None` when it broke before.
pub(crate) async fn taken_over(upgrade: OnUpgrade) -> Option<(Accepted, BytesMut)> {
    let upgraded = tokio::time::timeout(ANSWER_DEADLINE, upgrade).await.ok()?.ok()?;
    handshake::into_parts::<Timed>(upgraded).map(|(io, ahead)| (io.into_inner(), ahead))
}

impl Accepted {
    pub(crate) fn new(io: Transport, connected: Connected) -> Self {
        Self { io, _connected: connected }
    }

    /// Ends it in a way that nobody takes for a regular end.
    pub(crate) fn reset(self) {
        self.io.reset();
    }
}

impl ReadsAhead for Accepted {
    fn take_at_once(&mut self, bytes: usize) {
        self.io.take_at_once(bytes);
    }

    fn read_ahead(&mut self, bytes: usize) {
        self.io.read_ahead(bytes);
    }

    fn held(&self) -> usize {
        self.io.held()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
