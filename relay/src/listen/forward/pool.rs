//! Connections to one HTTP target: one exchange at a time on each, and a bounded number kept idle for the next.
//!
//! A connection is driven by the exchange that uses it, in the exchange's own task. While it is idle nobody drives it;
//! whether the target has closed it meanwhile shows when it is taken out again.
use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::Notify, time::Instant};
use tokio_rustls::client::TlsStream;

use crate::{listen::RequestBody, transport};

/// Idle connections that are kept. More are only needed while more requests run at once.
const IDLE_MAX: usize = 64;

/// How long a connection may be idle: below what most servers allow (60 to 75 s), above what a burst pauses.
const IDLE_FOR: Duration = Duration::from_secs(30);

/// Largest head of an answer, and read of a body in one piece: a response message has no more room.
const BUFFER_MAX: usize = 64 * 1024;

/// Fields of an answer's head.
const FIELDS_MAX: usize = 128;

/// Either transport to a target.
pub(super) type Io = transport::Link<TlsStream<TcpStream>>;

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) sender: SendRequest<RequestBody>,
    /// Absent when it has ended.
    connection: Option<Box<Connection<TokioIo<Io>, RequestBody>>>,
}

impl Link {
    /// HTTP/1.1 on a connected stream.
    pub(super) async fn new(io: Io) -> hyper::Result<Self> {
        let (sender, connection) =
            http1::Builder::new().max_buf_size(BUFFER_MAX).max_headers(FIELDS_MAX).handshake(TokioIo::new(io)).await?;
        Ok(Self { sender, connection: Some(Box::new(connection)) })
    }

    /// Drives the connection; whatever becomes of it shows in the exchange.
    pub(super) fn poll_drive(&mut self, cx: &mut Context<'_>) {
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

/// Idle connections, the one used last at the end.
#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: Mutex<VecDeque<(Instant, Link)>>,
    given: Notify,
}

impl Pool {
    /// An idle connection that the target has not closed: the one used last, which is the least likely to have been.
    pub(super) fn take(&self) -> Option<Link> {
        loop {
            let (since, mut link) = self.lock().pop_back()?;
            if since.elapsed() < IDLE_FOR && link.is_fit() {
                return Some(link);
            }
        }
    }

    /// Keeps a connection for the next request, if it is fit and there is room.
    pub(super) fn give(&self, mut link: Link) {
        if !link.is_fit() {
            return;
        }
        let mut idle = self.lock();
        if idle.len() < IDLE_MAX {
            idle.push_back((Instant::now(), link));
            drop(idle);
            self.given.notify_one();
        }
    }

    /// Closes what has been idle for too long, for ever.
    pub(super) async fn sweep(&self) {
        loop {
            let oldest = self.lock().front().map(|(since, _)| *since);
            match oldest {
                None => self.given.notified().await,
                Some(since) => {
                    tokio::time::sleep_until(since + IDLE_FOR).await;
                    self.lock().retain(|(since, _)| since.elapsed() < IDLE_FOR);
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(Instant, Link)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn link(listener: &tokio::net::TcpListener) -> (Link, TcpStream) {
        let address = listener.local_addr().unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
        (Link::new(Io::Tcp(ours.unwrap())).await.unwrap(), theirs.unwrap().0)
    }

    #[tokio::test]
    async fn no_more_than_the_limit_are_kept_and_old_ones_are_closed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::default();
        let mut theirs = Vec::new();
        for _ in 0..=IDLE_MAX {
            let (link, other) = link(&listener).await;
            pool.give(link);
            theirs.push(other);
        }
        assert_eq!(pool.lock().len(), IDLE_MAX);
        assert!(pool.take().is_some());
        tokio::time::pause();
        tokio::time::advance(IDLE_FOR).await;
        assert!(pool.take().is_none(), "too old");
        assert_eq!(pool.lock().len(), 0);
    }

    #[tokio::test]
    async fn a_connection_that_the_target_has_closed_is_not_used_again() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::default();
        let (link, theirs) = link(&listener).await;
        pool.give(link);
        drop(theirs);
        // The end has arrived when something is readable.
        while let Some(link) = pool.take() {
            pool.give(link);
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_is_idle_for_too_long_is_swept() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::default();
        let (link, mut theirs) = link(&listener).await;
        pool.give(link);
        tokio::time::pause();
        let ended = async {
            use tokio::io::AsyncReadExt as _;
            theirs.read(&mut [0; 1]).await
        };
        tokio::select! {
            () = pool.sweep() => unreachable!(),
            ended = ended => assert_eq!(ended.unwrap(), 0),
        }
    }
}
