//! HTTP requests that one listener was given over its control channel and has not answered yet.
//!
//! Each is answered once, by this listener and no other. An answer that nobody waits for any more is dropped; for each
//! request that was given up there may be one. More than that nobody asked for.
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
    given: Mutex<GivenRequests>,
    fewer: Notify,
}

#[derive(Debug, Default)]
struct GivenRequests {
    waiting: HashMap<String, oneshot::Sender<Answer>>,
    /// Given up before they were answered over the control channel: each may still be.
    left: u64,
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
        self.given().waiting.insert(id.to_owned(), sender);
        Expected { answer, id: id.to_owned(), requests: self.clone() }
    }

    /// Whether this is the answer to a request, be it one whose sender has left.
    pub(crate) fn is_asked_for(&self, response: &Response) -> bool {
        let mut given = self.given();
        if given.waiting.contains_key(&response.request_id) {
            return true;
        }
        let may = given.left > 0;
        given.left = given.left.saturating_sub(1);
        may
    }

    /// The listener answers.
    pub(crate) fn answer(&self, response: Response, body: Option<Bytes>) {
        let waiting = self.given().waiting.remove(&response.request_id);
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
            if self.given().waiting.is_empty() {
                return;
            }
            fewer.await;
        }
    }

    fn given(&self) -> MutexGuard<'_, GivenRequests> {
        self.inner.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        let mut given = self.requests.given();
        if given.waiting.remove(&self.id).is_some() {
            given.left += 1;
        }
        drop(given);
        self.requests.inner.fewer.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(id: &str) -> Response {
        let headers = proto::hybrid::message::Headers::default();
        Response {
            request_id: id.to_owned(),
            status_code: 200,
            status_description: None,
            response_headers: headers,
            body: false,
        }
    }

    #[test]
    fn there_is_one_answer_for_each_request_and_for_each_whose_sender_left() {
        let requests = Requests::default();
        assert!(!requests.is_asked_for(&response("unknown")));
        let (first, second) = (requests.expect("1"), requests.expect("2"));
        assert!(requests.is_asked_for(&response("1")));
        requests.answer(response("1"), None);
        drop((first, second));
        assert!(requests.is_asked_for(&response("2")), "its sender has left");
        assert!(!requests.is_asked_for(&response("1")), "it was answered");
    }
}
