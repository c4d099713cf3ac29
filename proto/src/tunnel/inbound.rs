//! The receiving half of any stream: response head, DATA frames cut into pieces, and the status at the end.
//!
//! Credit is split: framing and whole messages are given back in batches as they are consumed, payload only when the
//! next hop has taken it. A call that ends without a status, or in the middle of a message, is a failure.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use h2::{RecvStream, client::ResponseFuture};

use super::{
    failure::{Code, Failure},
    lost,
    message::{DecodeError, Decoder, Piece},
    status,
};

/// Credit for framing is given back together with payload or in batches of this size, not per message.
const OVERHEAD_BATCH: usize = 4096;

#[derive(Debug)]
pub(super) struct Inbound {
    state: State,
    decoder: Decoder,
    /// Payload handed on and not yet taken.
    outstanding: usize,
    /// Framing and messages consumed and not yet given back.
    overhead: usize,
}

#[derive(Debug)]
enum State {
    /// Client: the response head has not come yet.
    Head(ResponseFuture),
    Body {
        stream: RecvStream,
        ends_with_status: bool,
    },
    /// Client: all messages are here, the status is not.
    Trailers(RecvStream),
    /// Over. The stream is kept, because its payload may still be on its way to the next hop.
    Over(Option<RecvStream>),
}

impl Inbound {
    /// Our own call's answer.
    pub(super) fn response(response: ResponseFuture, decoder: Decoder) -> Self {
        Self { state: State::Head(response), decoder, outstanding: 0, overhead: 0 }
    }

    /// A call that arrived.
    pub(super) fn request(stream: RecvStream, decoder: Decoder) -> Self {
        let state = State::Body { stream, ends_with_status: false };
        Self { state, decoder, outstanding: 0, overhead: 0 }
    }

    /// The next piece; `None` at a good end. After a failure there is nothing more.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, Failure>>> {
        let polled = ready!(self.poll_piece(cx));
        if !matches!(polled, Some(Ok(_))) {
            self.finish();
        }
        Poll::Ready(polled)
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, Failure>>> {
        loop {
            match &mut self.state {
                State::Head(response) => {
                    let response = match ready!(Pin::new(response).poll(cx)) {
                        Ok(response) => response,
                        Err(error) => return Poll::Ready(Some(Err(lost::stream(&error)))),
                    };
                    let (head, stream) = response.into_parts();
                    let verdict =
                        status::read(&head.headers).unwrap_or_else(|| status::check_head(head.status, &head.headers));
                    self.state = if stream.is_end_stream() && status::read(&head.headers).is_some() {
                        State::Over(Some(stream))
                    } else {
                        State::Body { stream, ends_with_status: true }
                    };
                    if let Err(failure) = verdict {
                        return Poll::Ready(Some(Err(failure)));
                    }
                }
                State::Body { stream, ends_with_status } => {
                    match self.decoder.next() {
                        Ok(Some(piece)) => {
                            self.account(&piece);
                            return Poll::Ready(Some(Ok(piece)));
                        }
                        Ok(None) => {}
                        Err(error) => return Poll::Ready(Some(Err(error.into()))),
                    }
                    match ready!(stream.poll_data(cx)) {
                        Some(Ok(bytes)) => self.decoder.push(bytes),
                        Some(Err(error)) => return Poll::Ready(Some(Err(lost::stream(&error)))),
                        None if *ends_with_status => self.await_trailers(),
                        None if self.decoder.at_boundary() => return Poll::Ready(None),
                        None => return Poll::Ready(Some(Err(DecodeError::Truncated.into()))),
                    }
                }
                State::Trailers(stream) => {
                    let status = match ready!(stream.poll_trailers(cx)) {
                        Ok(trailers) => trailers.as_ref().and_then(status::read),
                        Err(error) => return Poll::Ready(Some(Err(lost::stream(&error)))),
                    };
                    return Poll::Ready(match status {
                        Some(Ok(())) if self.decoder.at_boundary() => None,
                        Some(Ok(())) => Some(Err(DecodeError::Truncated.into())),
                        Some(Err(failure)) => Some(Err(failure)),
                        None => Some(Err(Failure::perhaps(
                            Code::ProtocolError,
                            "the call ended without a status (unknown)",
                        ))),
                    });
                }
                State::Over(_) => return Poll::Ready(None),
            }
        }
    }

    /// Gives back the credit of payload that the next hop has accepted.
    pub(super) fn taken(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.outstanding, "more was taken than handed on");
        let bytes = bytes.min(self.outstanding);
        self.outstanding -= bytes;
        self.release(bytes);
    }

    /// Counts what is owed to the peer after this piece.
    fn account(&mut self, piece: &Piece) {
        if let Piece::Data(bytes) = piece {
            self.outstanding += bytes.len();
        }
        self.overhead += self.decoder.take_overhead();
        if self.overhead >= OVERHEAD_BATCH {
            self.release(0);
        }
    }

    fn release(&mut self, payload: usize) {
        let (State::Body { stream, .. } | State::Trailers(stream) | State::Over(Some(stream))) = &mut self.state else {
            return;
        };
        let credit = payload + std::mem::take(&mut self.overhead);
        // Fails only for more than was received, which the two counters exclude.
        let _ = stream.flow_control().release_capacity(credit);
    }

    fn await_trailers(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Over(None)) {
            State::Body { stream, .. } => State::Trailers(stream),
            other => other,
        };
    }

    fn finish(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Over(None)) {
            State::Body { stream, .. } | State::Trailers(stream) => State::Over(Some(stream)),
            State::Over(stream) => State::Over(stream),
            State::Head(_) => State::Over(None),
        };
    }
}
