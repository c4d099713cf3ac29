//! Connections to targets: one HTTP/1.1 exchange at a time on each, and a bounded number kept idle for the next one.
//!
//! A connection is driven by the stream that uses it, in the stream's own task, so a request costs no hop between tasks.
//! While it is idle nobody drives it; whether the target has closed it meanwhile shows when it is taken out again.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::Instant};

use super::body::RequestBody;

/// Idle connections of one target. More are only needed while more requests run at once.
const IDLE_PER_TARGET: usize = 64;

/// Idle connections in all: each is a descriptor here and there.
const IDLE_MAX: usize = 1024;

/// How long a connection may be idle: below what most servers allow (60 to 75 s), above what a burst pauses.
const IDLE_FOR: Duration = Duration::from_secs(30);

/// Largest answer head and read of a body in one piece.
const BUFFER_MAX: usize = 256 * 1024;

/// Fields of an answer's head.
const ANSWER_FIELDS_MAX: usize = 256;

/// One connection to a target.
#[derive(Debug)]
pub struct Link {
    /// Sends requests on it.
    pub sender: SendRequest<RequestBody>,
    /// Absent when it has ended.
    connection: Option<Box<Connection<TokioIo<TcpStream>, RequestBody>>>,
    /// Where it leads.
    pub address: SocketAddr,
}

impl Link {
    /// HTTP/1.1 on a connected stream.
    ///
    /// # Errors
    /// When the HTTP library cannot start.
    pub async fn new(stream: TcpStream, address: SocketAddr) -> hyper::Result<Self> {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(BUFFER_MAX)
            .max_headers(ANSWER_FIELDS_MAX)
            .handshake(TokioIo::new(stream))
            .await?;
        Ok(Self { sender, connection: Some(Box::new(connection)), address })
    }

    /// Drives the connection; whatever becomes of it shows in the exchange.
    pub fn poll_drive(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection
            && Pin::new(connection).poll(cx).is_ready()
        {
            self.connection = None;
        }
    }

    /// Whether another request may be sent on it now.
    fn is_fit(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.poll_drive(&mut cx);
        self.connection.is_some() && matches!(self.sender.poll_ready(&mut cx), Poll::Ready(Ok(())))
    }
}

/// Idle connections.
#[derive(Debug, Default)]
pub struct Pool {
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    by_address: HashMap<SocketAddr, VecDeque<(Instant, Link)>>,
    count: usize,
}

impl Pool {
    /// An idle connection to one of these addresses that the target has not closed.
    pub fn take(&self, addresses: &[SocketAddr]) -> Option<Link> {
        for address in addresses {
            while let Some((since, mut link)) = self.pop(*address) {
                if since.elapsed() < IDLE_FOR && link.is_fit() {
                    return Some(link);
                }
            }
        }
        None
    }

    /// Keeps a connection for the next request, if it is fit and there is room.
    pub fn give(&self, mut link: Link) {
        if !link.is_fit() {
            return;
        }
        let mut idle = self.lock();
        if idle.count < IDLE_MAX {
            let of_target = idle.by_address.entry(link.address).or_default();
            if of_target.len() < IDLE_PER_TARGET {
                of_target.push_back((Instant::now(), link));
                idle.count += 1;
            }
        }
    }

    /// Closes what has been idle for too long.
    pub fn sweep(&self) {
        let mut idle = self.lock();
        for links in idle.by_address.values_mut() {
            links.retain(|(since, _)| since.elapsed() < IDLE_FOR);
        }
        idle.by_address.retain(|_, links| !links.is_empty());
        idle.count = idle.by_address.values().map(VecDeque::len).sum();
    }

    /// Closes everything.
    pub fn clear(&self) {
        *self.lock() = Idle::default();
    }

    /// The one used last, which is the least likely to have been closed.
    fn pop(&self, address: SocketAddr) -> Option<(Instant, Link)> {
        let mut idle = self.lock();
        let popped = idle.by_address.get_mut(&address)?.pop_back();
        if popped.is_some() {
            idle.count -= 1;
        } else {
            idle.by_address.remove(&address);
        }
        popped
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often idle connections are looked through.
pub const SWEEP: Duration = Duration::from_secs(10);
