//! HTTP requests that one listener was given over its control channel and has not answered yet.
//!
//! Each is answered once, by this listener and no other. An answer that nobody waits for (any more) is dropped.
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use proto::hybrid::message::Response;
use tokio::sync::{Notify, oneshot};

/// What a listener answered: the response, and its body if it has one.
pub(super) type Answer = (Response, Option<Bytes>);

/// The requests of one listener.
#[derive(Debug, Clone, Default)]
pub(crate) struct Requests {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: Mutex<HashMap<String, oneshot::Sender<Answer>>>,
    fewer: Notify,
}

/// Waits for one answer; dropping it takes the request out.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) answer: oneshot::Receiver<Answer>,
    id: String,
    requests: Requests,
}

impl Requests {
    /// A request goes out. How many do is bounded by whoever calls; `id` must be new.
    pub(super) fn expect(&self, id: &str) -> Expected {
        let (sender, answer) = oneshot::channel();
        self.waiting().insert(id.to_owned(), sender);
        Expected { answer, id: id.to_owned(), requests: self.clone() }
    }

    /// The listener answers.
    pub(crate) fn answer(&self, response: Response, body: Option<Bytes>) {
        let waiting = self.waiting().remove(&response.request_id);
        self.inner.fewer.notify_waiters();
        match waiting {
            // Whoever waited may just have left.
            Some(waiting) => drop(waiting.send((response, body))),
            None => tracing::debug!("listener answered a request that it was not given, or not any more"),
        }
    }

    /// Returns when no request waits for an answer.
    pub(crate) async fn all_answered(&self) {
        loop {
            let fewer = self.inner.fewer.notified();
            tokio::pin!(fewer);
            fewer.as_mut().enable();
            if self.waiting().is_empty() {
                return;
            }
            fewer.await;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<Answer>>> {
        self.inner.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.requests.waiting().remove(&self.id);
        self.requests.inner.fewer.notify_waiters();
    }
}
