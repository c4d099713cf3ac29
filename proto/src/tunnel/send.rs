//! The sending half of any stream. Every chunk waits for credit before HTTP/2 gets it, so that at most
//! [`SEND_BUFFER_MAX`](crate::limits::SEND_BUFFER_MAX) of a stream waits inside; while it waits, whoever feeds it reads
//! nothing, and what piles up there comes as one bigger chunk: that is how small writes coalesce. An empty DATA frame
//! is never sent except to end a stream.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};
use h2::{Reason, SendStream};
use http::HeaderMap;

use super::{
    failure::{Code, Failure},
    hold::Holder,
    lost,
    message::Chunk,
};
use crate::limits::DATA_SENT_MAX;

#[derive(Debug)]
pub(super) struct Outbound {
    stream: SendStream<Chunk>,
    /// Counts what is sent.
    holder: Option<Arc<Holder>>,
}

impl Outbound {
    pub(super) fn new(stream: SendStream<Chunk>) -> Self {
        Self { stream, holder: None }
    }

    /// From now on what is sent counts as held until it is written, and from before it waits for credit.
    pub(super) fn counted(self, holder: Arc<Holder>) -> Self {
        Self { holder: Some(holder), ..self }
    }

    /// Payload as `data` messages.
    pub(super) async fn data(&mut self, mut payload: Bytes) -> Result<(), Failure> {
        // All of it from the beginning: the last piece of it waits as long as the first.
        let mut weight = self.holder.as_ref().map(|holder| holder.sends(payload.len()));
        while !payload.is_empty() {
            let piece = payload.split_to(payload.len().min(DATA_SENT_MAX));
            let share = if payload.is_empty() {
                weight.take()
            } else {
                weight.as_mut().map(|weight| weight.split(piece.len()))
            };
            self.weighed(Chunk::data(piece).weighing(share), false).await?;
        }
        Ok(())
    }

    /// One chunk, as soon as there is credit for some of it: HTTP/2 keeps the rest until there is more.
    pub(super) async fn chunk(&mut self, chunk: Chunk, end: bool) -> Result<(), Failure> {
        let chunk = self.weigh(chunk);
        self.weighed(chunk, end).await
    }

    async fn weighed(&mut self, chunk: Chunk, end: bool) -> Result<(), Failure> {
        self.stream.reserve_capacity(chunk.remaining());
        while self.stream.capacity() == 0 {
            match poll_fn(|cx| self.stream.poll_capacity(cx)).await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(lost::stream(&error)),
                None => return Err(self.closed()),
            }
        }
        self.hand_over(chunk, end)
    }

    /// One chunk without waiting: for a stream's first message and for its end.
    pub(super) fn now(&mut self, chunk: Chunk, end: bool) -> Result<(), Failure> {
        let chunk = self.weigh(chunk);
        self.hand_over(chunk, end)
    }

    fn weigh(&self, chunk: Chunk) -> Chunk {
        let weight = self.holder.as_ref().map(|holder| holder.sends(chunk.remaining()));
        chunk.weighing(weight)
    }

    fn hand_over(&mut self, chunk: Chunk, end: bool) -> Result<(), Failure> {
        self.stream.send_data(chunk, end).map_err(|_| self.closed())
    }

    pub(super) fn trailers(&mut self, trailers: HeaderMap) {
        // Fails only on a stream that is closed already, and then nobody waits for trailers.
        let _ = self.stream.send_trailers(trailers);
    }

    pub(super) fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }

    /// Ready when the peer has reset the stream or the connection is gone.
    pub(super) fn poll_cancelled(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        self.stream.poll_reset(cx).map(|reset| match reset {
            Ok(reason) => lost::reset(reason, true),
            Err(error) => lost::stream(&error),
        })
    }

    /// Why nothing can be sent any more.
    fn closed(&mut self) -> Failure {
        match self.poll_cancelled(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(failure) => failure,
            Poll::Pending => Failure::perhaps(Code::Internal, "the stream's sending side is already closed"),
        }
    }
}
