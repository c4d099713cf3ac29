//! One follower of `/events`: history first, then each event as it comes, and a comment now and then.
//!
//! It keeps a place in the history and nothing else. hyper asks for the next piece when its peer has taken the last, so a
//! peer that does not read is noticed by that question not coming ([`Patience`]).
use std::{
    convert::Infallible,
    fmt::Write as _,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{Event, Events};

/// Silence after which a comment is sent, so that proxies and people know that the stream lives.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(15);

/// A follower whose peer takes nothing for so long is cut off: three comments in a row.
pub(super) const STALLED: Duration = Duration::from_secs(45);

/// Events that become one piece.
const PIECE: usize = 64;

/// How long a connection may last; a follower puts its end off for as long as its peer reads.
#[derive(Debug, Clone)]
pub(in crate::admin) struct Patience(Arc<Mutex<Instant>>);

impl Patience {
    /// Ends after `time`.
    pub(in crate::admin) fn new(time: Duration) -> Self {
        Self(Arc::new(Mutex::new(Instant::now() + time)))
    }

    /// Resolves when it has run out.
    pub(in crate::admin) async fn run_out(&self) {
        loop {
            let end = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }

    fn renew(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + STALLED;
    }
}

/// The body of an answer to `/events`.
pub(in crate::admin) struct Follower {
    /// Gives itself back with each piece; none is left after the last.
    next: Option<NextPiece>,
}

type NextPiece = Pin<Box<dyn Future<Output = (Bytes, Option<Place>)> + Send>>;

/// Where a follower is in the history.
struct Place {
    events: Events,
    newest: watch::Receiver<u64>,
    /// Events before this one were told, or are forgotten.
    next: u64,
    /// What was forgotten before this one was no loss.
    owed_from: u64,
    /// Said before anything else.
    before: String,
    patience: Patience,
    _permit: OwnedSemaphorePermit,
}

impl Events {
    /// A follower that has seen everything up to `seen`, or nothing. None when there are too many already.
    pub(in crate::admin) fn follow(&self, seen: Option<u64>, patience: &Patience) -> Option<Follower> {
        let permit = self.places.clone().try_acquire_owned().ok()?;
        let newest = self.newest.subscribe();
        let (whole_from, end) = {
            let history = self.history();
            (history.whole_from, history.next)
        };
        let missed = || marker("missed", "the history does not reach back to Last-Event-ID");
        // Who resumes is owed everything since; anybody else what happens from now on, and of what was before, what is left.
        let (next, owed_from, before) = match seen {
            Some(seen) if (whole_from..=end).contains(&(seen.saturating_add(1))) => (seen + 1, seen + 1, String::new()),
            Some(_) => (0, end, missed()),
            None => (0, end, String::new()),
        };
        let place = Place {
            events: self.clone(),
            newest,
            next,
            owed_from,
            before,
            patience: patience.clone(),
            _permit: permit,
        };
        Some(Follower { next: Some(Box::pin(place.piece())) })
    }
}

impl Place {
    /// The next piece of the stream; without a place behind it, it is the last.
    async fn piece(mut self) -> (Bytes, Option<Self>) {
        self.patience.renew();
        let mut text = std::mem::take(&mut self.before);
        loop {
            self.newest.mark_unchanged();
            let due = self.due();
            match due {
                None => {
                    text.push_str(&marker("too_slow", "this follower fell behind the history"));
                    return (text.into(), None);
                }
                Some(due) => {
                    for event in due {
                        self.next = event.id + 1;
                        write_event(&mut text, &event);
                    }
                }
            }
            if !text.is_empty() {
                return (text.into(), Some(self));
            }
            tokio::select! {
                // Its sender is in our own hands.
                _ = self.newest.changed() => {}
                () = sleep(HEARTBEAT) => return (Bytes::from_static(b":\n\n"), Some(self)),
            }
        }
    }

    /// The next events; none when they were forgotten before they could be told.
    fn due(&self) -> Option<Vec<Arc<Event>>> {
        let history = self.events.history();
        if history.whole_from > self.next.max(self.owed_from) {
            return None;
        }
        let skip = history.kept.partition_point(|event| event.id < self.next);
        Some(history.kept.iter().skip(skip).take(PIECE).cloned().collect())
    }
}

fn write_event(text: &mut String, event: &Event) {
    // JSON has no line breaks of its own. Writing to a String does not fail.
    let _ = write!(text, "id: {}\nevent: {}\ndata: {}\n\n", event.id, event.kind, event.json());
}

/// A word about the stream itself. It has no id, so that whoever comes back resumes behind the last event.
fn marker(kind: &str, why: &str) -> String {
    format!("event: {kind}\ndata: {}\n\n", serde_json::json!({ "kind": kind, "why": why }))
}

impl Body for Follower {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let Some(next) = &mut self.next else { return Poll::Ready(None) };
        let (piece, place) = std::task::ready!(next.as_mut().poll(cx));
        self.next = place.map(|place| Box::pin(place.piece()) as _);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}
