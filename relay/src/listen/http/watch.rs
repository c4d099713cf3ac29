//! Whether the other end has ended a connection that is not being read just now: its end stands behind bytes that nobody
//! has room for, and is seen all the same.
use std::{future::pending, io, net, os::fd::AsFd as _};

use tokio::{io::Interest, net::TcpStream};

use crate::{dial::Carrier, sender::Transport, transport::Link};

/// Watches one connection, by a descriptor of its own.
#[derive(Debug)]
pub(super) enum Watch {
    /// Nobody had to wait yet.
    Ready(net::TcpStream),
    Watching(TcpStream),
    /// There was no descriptor for it.
    Blind,
}

impl Watch {
    pub(super) fn new(connection: &Transport) -> Self {
        copy(connection).map_or(Self::Blind, Self::Ready)
    }

    /// Until the other end has closed or reset it. Cancel-safe.
    pub(super) async fn ended(&mut self) {
        *self = match std::mem::replace(self, Self::Blind) {
            Self::Ready(copy) => TcpStream::from_std(copy).map_or(Self::Blind, Self::Watching),
            other => other,
        };
        match self {
            // Urgent data would end it, too; WebSocket has none.
            Self::Watching(stream) => drop(stream.ready(Interest::PRIORITY | Interest::ERROR).await),
            Self::Ready(_) | Self::Blind => pending().await,
        }
    }
}

fn copy(connection: &Transport) -> io::Result<net::TcpStream> {
    let tcp = match connection {
        Link::Tcp(carrier) => Carrier::tcp(carrier),
        Link::Tls(session) => session.get_ref().0.get_ref().tcp(),
    };
    tcp.as_fd().try_clone_to_owned().map(net::TcpStream::from)
}
