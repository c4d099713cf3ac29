//! What answers are made of: nothing, bytes at hand, or bytes that a listener is still sending.
//!
//! A body that was cut short never looks whole: unless its end was said, it ends with an error, and the connection with it.
use std::{
    mem,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;

use super::http::Exchange;

/// How a body ended.
#[derive(Debug, Clone, Copy)]
enum End {
    Whole,
    /// What happened, and whose doing it was.
    Cut(&'static str, &'static str),
}

/// Where a body is fed from. Dropped before its end was said, it has cut the body short.
#[derive(Debug)]
pub(crate) struct Feed {
    pieces: mpsc::Sender<Bytes>,
    end: Arc<OnceLock<End>>,
}

/// What comes out.
#[derive(Debug)]
pub(crate) struct Pieces {
    pieces: mpsc::Receiver<Bytes>,
    end: Arc<OnceLock<End>>,
}

/// A body to come, one piece waiting at most.
pub(crate) fn feed() -> (Feed, Pieces) {
    let (sender, pieces) = mpsc::channel(1);
    let end = Arc::<OnceLock<End>>::default();
    (Feed { pieces: sender, end: end.clone() }, Pieces { pieces, end })
}

impl Feed {
    /// Some bytes, at least one, once the piece before was taken; false when nobody takes any.
    pub(crate) async fn bytes(&self, bytes: Bytes) -> bool {
        self.pieces.send(bytes).await.is_ok()
    }

    /// That was all.
    pub(crate) fn end(self) {
        let _ = self.end.set(End::Whole);
    }

    /// There should have been more.
    pub(crate) fn cut(self, outcome: &'static str, fault: &'static str) {
        let _ = self.end.set(End::Cut(outcome, fault));
    }

    /// Resolves when nobody takes any more.
    pub(crate) async fn closed(&self) {
        self.pieces.closed().await;
    }
}

/// The body is not whole.
#[derive(Debug, thiserror::Error)]
#[error("answer was cut short")]
pub(crate) struct CutShort;

/// Body of an answer.
#[derive(Debug, Default)]
pub(crate) struct Body {
    content: Content,
    /// What an HTTP sender's request came to, told when its answer is done with.
    exchange: Option<Box<Exchange>>,
}

#[derive(Debug, Default)]
enum Content {
    #[default]
    Nothing,
    Whole(Bytes),
    Pieces(Pieces),
}

impl Body {
    /// Tells the exchange how it ended.
    pub(crate) fn telling(mut self, exchange: Box<Exchange>) -> Self {
        self.exchange = Some(exchange);
        self
    }

    fn frame(&mut self, bytes: Bytes) -> Option<Result<Frame<Bytes>, CutShort>> {
        if let Some(exchange) = &mut self.exchange {
            exchange.went_out(bytes.len());
        }
        Some(Ok(Frame::data(bytes)))
    }

    fn cut(&mut self, outcome: &'static str, fault: &'static str) -> Option<Result<Frame<Bytes>, CutShort>> {
        self.content = Content::Nothing;
        if let Some(mut exchange) = self.exchange.take() {
            exchange.end(outcome, fault);
        }
        Some(Err(CutShort))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        let content = if bytes.is_empty() { Content::Nothing } else { Content::Whole(bytes) };
        Self { content, exchange: None }
    }
}

impl From<Pieces> for Body {
    fn from(pieces: Pieces) -> Self {
        Self { content: Content::Pieces(pieces), exchange: None }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        let this = self.get_mut();
        let (bytes, end) = match &mut this.content {
            Content::Nothing => return Poll::Ready(None),
            Content::Whole(bytes) => {
                let bytes = mem::take(bytes);
                this.content = Content::Nothing;
                return Poll::Ready(this.frame(bytes));
            }
            Content::Pieces(Pieces { pieces, end }) => (ready!(pieces.poll_recv(cx)), end.get().copied()),
        };
        Poll::Ready(match (bytes, end) {
            (Some(bytes), _) => this.frame(bytes),
            (None, Some(End::Whole)) => {
                this.content = Content::Nothing;
                None
            }
            (None, Some(End::Cut(outcome, fault))) => this.cut(outcome, fault),
            (None, None) => this.cut("lost", "listener"),
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.content, Content::Nothing)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Nothing => SizeHint::with_exact(0),
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Pieces(_) => SizeHint::default(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(mut exchange) = self.exchange.take() {
            match self.content {
                Content::Nothing => exchange.end("complete", "none"),
                Content::Whole(_) | Content::Pieces(_) => exchange.end("sender_gone", "sender"),
            }
        }
    }
}
