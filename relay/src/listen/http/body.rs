//! The body of a request: whole, when it came with the request, or as it arrives by rendezvous. A body that breaks off, or
//! that is not as long as was said, is an error for its reader and never an end.
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// Pieces that wait to be read. The rendezvous is not read on while they do.
const WAITING: usize = 2;

/// Why a body ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The sender or the relay went away.
    #[error("the request broke off")]
    BrokeOff,
    /// Longer or shorter than its `Content-Length`.
    #[error("the request's body is not as long as was said")]
    Length,
}

/// Body of a request, as handlers read it.
#[derive(Debug)]
pub struct RequestBody {
    source: Source,
    /// Bytes still to come, where a length was said.
    left: Option<u64>,
}

#[derive(Debug)]
enum Source {
    Whole(Option<Bytes>),
    Arriving(mpsc::Receiver<Piece>),
    Done,
}

#[derive(Debug)]
enum Piece {
    Bytes(Bytes),
    End,
}

/// Where pieces go as they arrive.
#[derive(Debug)]
pub(super) struct Sink {
    to: mpsc::Sender<Piece>,
}

impl RequestBody {
    /// No body.
    pub(in crate::listen) fn none() -> Self {
        Self { source: Source::Done, left: Some(0) }
    }

    /// All of it; refused when it is not as long as was said.
    pub(super) fn whole(bytes: Bytes, length: Option<u64>) -> Result<Self, BodyError> {
        let here = bytes.len() as u64;
        if length.is_some_and(|length| length != here) {
            return Err(BodyError::Length);
        }
        Ok(Self { source: Source::Whole(Some(bytes).filter(|bytes| !bytes.is_empty())), left: Some(here) })
    }

    /// What will be put into the sink.
    pub(super) fn arriving(length: Option<u64>) -> (Sink, Self) {
        let (to, from) = mpsc::channel(WAITING);
        (Sink { to }, Self { source: Source::Arriving(from), left: length })
    }

    fn take(&mut self, bytes: Bytes) -> Result<Frame<Bytes>, BodyError> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(bytes.len() as u64).ok_or(BodyError::Length)?;
        }
        Ok(Frame::data(bytes))
    }
}

impl Sink {
    /// Room for one piece; nothing when nobody reads any more. Cancel-safe.
    pub(super) async fn room(&self) -> Option<Room<'_>> {
        self.to.reserve().await.ok().map(Room)
    }
}

/// Room for one piece.
pub(super) struct Room<'a>(mpsc::Permit<'a, Piece>);

impl Room<'_> {
    pub(super) fn put(self, bytes: Bytes) {
        self.0.send(Piece::Bytes(bytes));
    }

    /// The body is complete.
    pub(super) fn end(self) {
        self.0.send(Piece::End);
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let outcome = match &mut this.source {
            Source::Done => None,
            Source::Whole(bytes) => bytes.take().map(|bytes| this.take(bytes)),
            Source::Arriving(from) => match ready!(from.poll_recv(cx)) {
                Some(Piece::Bytes(bytes)) => Some(this.take(bytes)),
                Some(Piece::End) if this.left.is_some_and(|left| left > 0) => Some(Err(BodyError::Length)),
                Some(Piece::End) => None,
                None => Some(Err(BodyError::BrokeOff)),
            },
        };
        if !matches!(outcome, Some(Ok(_))) {
            this.source = Source::Done;
        }
        Poll::Ready(outcome)
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.source, Source::Done | Source::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.source, self.left) {
            (Source::Done | Source::Whole(None), _) => SizeHint::with_exact(0),
            (_, Some(left)) => SizeHint::with_exact(left),
            (_, None) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn put(length: Option<u64>, pieces: &[&'static str], ends: bool) -> Result<Bytes, BodyError> {
        let (sink, body) = RequestBody::arriving(length);
        let putting = async {
            for piece in pieces {
                let Some(room) = sink.room().await else { return };
                room.put(Bytes::from_static(piece.as_bytes()));
            }
            if let (true, Some(room)) = (ends, sink.room().await) {
                room.end();
            }
            drop(sink);
        };
        tokio::join!(putting, body.collect()).1.map(http_body_util::Collected::to_bytes)
    }

    #[tokio::test]
    async fn a_body_is_complete_only_with_its_end() {
        assert_eq!(put(None, &["a", "b", "c", "d"], true).await.unwrap(), "abcd");
        assert_eq!(put(None, &["a", "b"], false).await, Err(BodyError::BrokeOff));
        assert_eq!(put(Some(2), &["a", "b"], false).await, Err(BodyError::BrokeOff));
    }

    #[tokio::test]
    async fn a_body_that_is_longer_or_shorter_than_was_said_is_an_error() {
        assert_eq!(put(Some(4), &["ab", "cd"], true).await.unwrap(), "abcd");
        assert_eq!(put(Some(3), &["ab", "cd"], true).await, Err(BodyError::Length));
        assert_eq!(put(Some(5), &["ab", "cd"], true).await, Err(BodyError::Length));
        assert_eq!(RequestBody::whole(Bytes::from_static(b"abc"), Some(4)).unwrap_err(), BodyError::Length);
        assert!(RequestBody::whole(Bytes::from_static(b"abc"), Some(3)).is_ok());
    }

    #[test]
    fn sizes_are_told_where_they_are_known() {
        assert!(RequestBody::none().is_end_stream());
        let whole = RequestBody::whole(Bytes::from_static(b"abc"), None).unwrap();
        assert_eq!((whole.is_end_stream(), whole.size_hint().exact()), (false, Some(3)));
        assert!(RequestBody::whole(Bytes::new(), None).unwrap().is_end_stream());
        assert_eq!(RequestBody::arriving(None).1.size_hint().exact(), None);
        assert_eq!(RequestBody::arriving(Some(9)).1.size_hint().exact(), Some(9));
    }
}
