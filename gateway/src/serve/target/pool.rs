//! HTTP/1.1 connections to targets: one exchange at a time on each, and a bounded number kept idle for the next one.
//!
//! A connection is driven by the stream that uses it, in the stream's own task, so a request costs no hop between tasks.
//! While it is idle nobody drives it; whether the target has closed it meanwhile shows when it is taken out again.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::{body::RequestBody, wire::Wire};

/// Idle connections of one target and worker. More are only needed while more requests run at once.
const IDLE_PER_TARGET: usize = 64;

/// Idle connections of one worker in all: each is a descriptor here and there.
const IDLE_MAX: usize = 1024;

/// How long a connection may be idle: below what most servers allow (60 to 75 s), above what a burst pauses.
pub const IDLE_FOR: Duration = Duration::from_secs(30);

/// Largest answer head and read of a body in one piece.
pub(super) const BUFFER_MAX: usize = 256 * 1024;

/// Fields of an answer's head.
const ANSWER_FIELDS_MAX: usize = 256;

/// Where a connection leads. Requests share connections only to the same place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The judged address.
    pub address: SocketAddr,
    /// How the target was verified; absent without TLS.
    pub verified: Option<Arc<str>>,
}

/// One connection to a target.
#[derive(Debug)]
pub struct Link {
    /// Sends requests on it.
    pub sender: SendRequest<RequestBody>,
    /// Absent when it has ended.
    connection: Option<Box<Connection<TokioIo<Wire>, RequestBody>>>,
    /// An upgrade was asked for: what lies beneath is kept when HTTP ends.
    upgrading: bool,
    upgraded: bool,
    reused: bool,
    /// Where it leads.
    pub place: Place,
}

impl Link {
    /// HTTP/1.1 on a connected stream.
    ///
    /// # Errors
    /// When the HTTP library cannot start.
    pub async fn new(wire: Wire, place: Place) -> hyper::Result<Self> {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(BUFFER_MAX)
            .max_headers(ANSWER_FIELDS_MAX)
            .handshake(TokioIo::new(wire))
            .await?;
        Ok(Self {
            sender,
            connection: Some(Box::new(connection)),
            upgrading: false,
            upgraded: false,
            reused: false,
            place,
        })
    }

    /// Whether it has served requests before.
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// The next request asks for an upgrade: this connection serves nothing else after it.
    pub fn for_upgrade(&mut self) {
        self.upgrading = true;
    }

    /// Drives the connection; whatever becomes of it shows in the exchange.
    pub fn poll_drive(&mut self, cx: &mut Context<'_>) {
        let Some(connection) = &mut self.connection else { return };
        if !self.upgrading {
            if Pin::new(connection).poll(cx).is_ready() {
                self.connection = None;
            }
        } else if !self.upgraded {
            match connection.poll_without_shutdown(cx) {
                Poll::Ready(Ok(())) => self.upgraded = true,
                Poll::Ready(Err(_)) => self.connection = None,
                Poll::Pending => {}
            }
        }
    }

    /// After the target has agreed to an upgrade: the connection, and what was read from it beyond the answer's head.
    pub fn poll_upgraded(&mut self, cx: &mut Context<'_>) -> Poll<Option<(Wire, Bytes)>> {
        self.poll_drive(cx);
        if self.connection.is_some() && !self.upgraded {
            return Poll::Pending;
        }
        Poll::Ready(self.connection.take().map(|connection| {
            let parts = connection.into_parts();
            (parts.io.into_inner(), parts.read_buf)
        }))
    }

    /// Whether another request may be sent on it now.
    fn is_fit(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.poll_drive(&mut cx);
        !self.upgrading && self.connection.is_some() && matches!(self.sender.poll_ready(&mut cx), Poll::Ready(Ok(())))
    }
}

/// Idle connections.
#[derive(Debug, Default)]
pub struct Pool {
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    by_place: HashMap<Place, VecDeque<(Instant, Link)>>,
    count: usize,
}

impl Pool {
    /// An idle connection to one of these places that the target has not closed.
    pub fn take(&self, places: &[Place]) -> Option<Link> {
        for place in places {
            while let Some((since, mut link)) = self.pop(place) {
                if since.elapsed() < IDLE_FOR && link.is_fit() {
                    link.reused = true;
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
            let of_target = idle.by_place.entry(link.place.clone()).or_default();
            if of_target.len() < IDLE_PER_TARGET {
                of_target.push_back((Instant::now(), link));
                idle.count += 1;
            }
        }
    }

    /// Closes what has been idle for too long.
    pub fn sweep(&self) {
        let mut idle = self.lock();
        for links in idle.by_place.values_mut() {
            links.retain(|(since, _)| since.elapsed() < IDLE_FOR);
        }
        idle.by_place.retain(|_, links| !links.is_empty());
        idle.count = idle.by_place.values().map(VecDeque::len).sum();
    }

    /// Closes everything.
    pub fn clear(&self) {
        *self.lock() = Idle::default();
    }

    /// The one used last, which is the least likely to have been closed.
    fn pop(&self, place: &Place) -> Option<(Instant, Link)> {
        let mut idle = self.lock();
        let popped = idle.by_place.get_mut(place)?.pop_back();
        if popped.is_some() {
            idle.count -= 1;
        } else {
            idle.by_place.remove(place);
        }
        popped
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often idle connections are looked through.
pub const SWEEP: Duration = Duration::from_secs(10);
