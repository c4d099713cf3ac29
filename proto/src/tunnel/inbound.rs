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
    /// Taken, and the peer gets no credit for it yet.
    owed: usize,
    /// No longer held since somebody asked.
    freed: usize,
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
        Self { state: State::Head(response), decoder, outstanding: 0, overhead: 0, owed: 0, freed: 0 }
    }

    /// A call that arrived.
    pub(super) fn request(stream: RecvStream, decoder: Decoder) -> Self {
        let state = State::Body { stream, ends_with_status: false };
        Self { state, decoder, outstanding: 0, overhead: 0, owed: 0, freed: 0 }
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

    /// The next hop has accepted so much payload. Its credit goes back now, or is owed if it is to be withheld.
    pub(super) fn taken(&mut self, bytes: usize, withhold: bool) {
        debug_assert!(bytes <= self.outstanding, "more was taken than handed on");
        let bytes = bytes.min(self.outstanding);
        self.outstanding -= bytes;
        if withhold {
            self.owed += bytes;
            self.freed += bytes;
        } else {
            self.release(bytes);
        }
    }

    /// Gives the credit back that is owed.
    pub(super) fn repay(&mut self) {
        let owed = std::mem::take(&mut self.owed);
        self.release(owed);
        // It was no longer held when it was taken.
        self.freed = self.freed.saturating_sub(owed);
    }

    /// Received and not yet taken, in HTTP/2 or on the way to the next hop.
    pub(super) fn held(&mut self) -> usize {
        let owed = self.owed;
        self.stream().map_or(0, |stream| stream.flow_control().used_capacity().saturating_sub(owed))
    }

    /// What is no longer held since the last call.
    pub(super) fn take_freed(&mut self) -> usize {
        std::mem::take(&mut self.freed)
    }

    /// Lets everything go: nothing more is received.
    pub(super) fn close(&mut self) {
        self.freed += self.held();
        self.owed = 0;
        self.state = State::Over(None);
    }

    fn stream(&mut self) -> Option<&mut RecvStream> {
        match &mut self.state {
            State::Body { stream, .. } | State::Trailers(stream) | State::Over(Some(stream)) => Some(stream),
            State::Head(_) | State::Over(None) => None,
        }
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
        let overhead = self.overhead;
        let Some(stream) = self.stream() else { return };
        let credit = payload + overhead;
        // Fails only for more than was received, which the two counters exclude.
        let _ = stream.flow_control().release_capacity(credit);
        self.overhead = 0;
        self.freed += credit;
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
