//! What waits to be written: batches of messages in order, and ahead of them the answers that the reading half owes.
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, Semaphore};

use super::{BATCHES_WAITING, ChannelError, Message, Piece};

/// Shared by both halves and the writer.
#[derive(Debug)]
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    /// Free places for batches; closed when the writer has ended.
    room: Semaphore,
    /// Something is waiting, or nobody is left.
    news: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    batches: VecDeque<Batch>,
    pong: Option<Vec<u8>>,
    ping: bool,
    /// The last thing to say; whatever else waits is given up.
    close: Option<Option<(u16, String)>>,
    /// The peer has closed its direction.
    peer_closed: bool,
    /// Both halves are gone.
    abandoned: bool,
}

/// What takes one place in the queue.
#[derive(Debug)]
pub(super) enum Batch {
    /// Messages that stay adjacent.
    Messages(Vec<Message>),
    /// A part of one message.
    Piece(Piece),
}

/// One turn of the writer.
#[derive(Debug)]
pub(super) enum Turn {
    /// Answer to a Ping.
    Pong(Vec<u8>),
    /// Ask for a sign of life.
    Ping,
    /// What was given to be sent.
    Batch(Batch),
    /// Say this and end.
    Close(Option<(u16, String)>),
    /// End.
    Finish,
}

impl Outbox {
    /// No code panics while it holds the lock, hence what a poisoned lock guards is whole.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room, then queues `batch`. Cancelled while waiting, nothing is queued.
    pub(super) async fn push(&self, batch: Batch) -> Result<(), ChannelError> {
        let place = self.room.acquire().await.map_err(|_| ChannelError::Ended)?;
        place.forget();
        self.lock().batches.push_back(batch);
        self.news.notify_one();
        Ok(())
    }

    /// The same when nothing else is waiting or being written.
    pub(super) async fn push_alone(&self, batch: Batch) -> Result<(), ChannelError> {
        let mut places = self.room.acquire_many(BATCHES_WAITING as u32).await.map_err(|_| ChannelError::Ended)?;
        if let Some(place) = places.split(1) {
            place.forget();
        }
        self.lock().batches.push_back(batch);
        self.news.notify_one();
        Ok(())
    }

    pub(super) fn pong(&self, payload: &[u8]) {
        self.lock().pong = Some(payload.to_vec());
        self.news.notify_one();
    }

    pub(super) fn ping(&self) {
        self.lock().ping = true;
        self.news.notify_one();
    }

    /// The reading half has ended: with the peer's Close, which is echoed, or over its fault, which is named.
    pub(super) fn close(&self, close: Option<(u16, String)>, peer_closed: bool) {
        let mut waiting = self.lock();
        waiting.peer_closed |= peer_closed;
        // Batches queued before an echo still go out: the peer has closed its direction, not ours.
        match peer_closed {
            true => waiting.batches.push_back(Batch::Messages(vec![Message::Close(close)])),
            false => waiting.close = Some(close),
        }
        drop(waiting);
        self.news.notify_one();
    }

    pub(super) fn peer_closed(&self) -> bool {
        self.lock().peer_closed
    }

    /// The next thing to write. Cancel-safe.
    pub(super) async fn turn(&self) -> Turn {
        loop {
            if let Some(turn) = self.take() {
                return turn;
            }
            self.news.notified().await;
        }
    }

    fn take(&self) -> Option<Turn> {
        let mut waiting = self.lock();
        if let Some(close) = waiting.close.take() {
            return Some(Turn::Close(close));
        }
        if let Some(payload) = waiting.pong.take() {
            return Some(Turn::Pong(payload));
        }
        if std::mem::take(&mut waiting.ping) {
            return Some(Turn::Ping);
        }
        if let Some(batch) = waiting.batches.pop_front() {
            return Some(Turn::Batch(batch));
        }
        waiting.abandoned.then_some(Turn::Finish)
    }

    /// One batch is written: its place is free.
    pub(super) fn written(&self) {
        self.room.add_permits(1);
    }

    /// The writer has ended: whoever waits for room learns it, and what waited is dropped.
    pub(super) fn end(&self) {
        self.room.close();
        *self.lock() = Waiting::default();
    }
}

/// Held by both halves; when the last one goes, the writer is told to finish.
#[derive(Debug)]
pub(super) struct Owners {
    outbox: Arc<Outbox>,
}

impl Owners {
    pub(super) fn outbox(&self) -> Arc<Outbox> {
        self.outbox.clone()
    }
}

impl Default for Owners {
    fn default() -> Self {
        let outbox = Outbox { waiting: Mutex::default(), room: Semaphore::new(BATCHES_WAITING), news: Notify::new() };
        Self { outbox: Arc::new(outbox) }
    }
}

impl std::ops::Deref for Owners {
    type Target = Outbox;

    fn deref(&self) -> &Outbox {
        &self.outbox
    }
}

impl Drop for Owners {
    fn drop(&mut self) {
        self.outbox.lock().abandoned = true;
        self.outbox.news.notify_one();
    }
}
