//! The receiving half of a `Forward` stream: data is handed on as it arrives, and credit returns only when it was
//! taken. The order of the contract is kept here: nothing follows `fin`, and a direction that ends without it was cut
//! short, which must never look like a good end.
use std::{fmt, future::poll_fn, sync::Arc};

use bytes::Bytes;
use prost::Message;

use super::{
    failure::{Code, Failure},
    hold::{Hold, Holder},
    in_flight::Slot,
    message::{DecodeError, Piece},
    pb,
    window::Meter,
};

/// One part of a direction: bytes of payload, or any other message of the contract. Its `Debug` shows neither.
pub enum Part<M> {
    /// A piece of payload. Say `taken(len)` once the next hop has accepted it.
    Data(Bytes),
    /// Any message but `data`.
    Message(M),
}

impl<M> fmt::Debug for Part<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(bytes) => f.debug_tuple("Data").field(&bytes.len()).finish(),
            Self::Message(_) => f.write_str("Message"),
        }
    }
}

/// The messages of one direction of `Forward`.
pub trait Direction: Message + Default + sealed::Direction {}

impl Direction for pb::ForwardRequest {}
impl Direction for pb::ForwardResponse {}

mod sealed {
    use bytes::Bytes;

    pub trait Direction: Sized {
        fn sort(self) -> Sorted<Self>;
    }

    #[derive(Debug)]
    pub enum Sorted<M> {
        Data(Bytes),
        Fin(M),
        Other(M),
        Unknown,
    }
}

use sealed::Sorted;

impl sealed::Direction for pb::ForwardRequest {
    fn sort(self) -> Sorted<Self> {
        use pb::forward_request::Part;
        match self.part {
            Some(Part::Data(data)) => Sorted::Data(data),
            Some(Part::Fin(_)) => Sorted::Fin(self),
            Some(Part::Open(_)) => Sorted::Other(self),
            None => Sorted::Unknown,
        }
    }
}

impl sealed::Direction for pb::ForwardResponse {
    fn sort(self) -> Sorted<Self> {
        use pb::forward_response::Part;
        match self.part {
            Some(Part::Data(data)) => Sorted::Data(data),
            Some(Part::Fin(_)) => Sorted::Fin(self),
            Some(Part::Head(_) | Part::Connected(_)) => Sorted::Other(self),
            None => Sorted::Unknown,
        }
    }
}

/// Receives one direction of a `Forward` call. `M` is `pb::ForwardRequest` or `pb::ForwardResponse`.
pub struct Receiver<M> {
    holder: Arc<Holder>,
    meter: Meter,
    /// Payload that came in a message of another shape: its credit is gone already.
    credited: usize,
    fin: bool,
    failed: bool,
    /// Kept as long as the stream is in use, for whoever counts streams.
    _slot: Arc<Slot>,
    _direction: std::marker::PhantomData<fn() -> M>,
}

impl<M> Receiver<M> {
    pub(super) fn new(holder: Arc<Holder>, meter: Meter, slot: Arc<Slot>) -> Self {
        let _direction = std::marker::PhantomData;
        Self { holder, meter, credited: 0, fin: false, failed: false, _slot: slot, _direction }
    }

    /// Gives the peer credit for `bytes` that the next hop has accepted.
    pub fn taken(&mut self, bytes: usize) {
        let credited = bytes.min(self.credited);
        self.credited -= credited;
        self.holder.taken(bytes - credited);
        self.meter.taken(bytes);
    }

    /// The stream's place in the budget of what is held.
    pub fn hold(&self) -> Hold {
        Hold(Arc::clone(&self.holder))
    }
}

impl<M> Drop for Receiver<M> {
    fn drop(&mut self) {
        self.holder.close();
    }
}

impl<M: Direction> Receiver<M> {
    /// The next part; `None` when the direction ended in good order: for the gateway, `fin` and the end of the stream;
    /// for the caller, `fin` and status OK. Cancel-safe. Messages return their credit by themselves, data does not. After a
    /// failure, `None`.
    ///
    /// # Errors
    /// The call's own failure; `Cancelled` or `TunnelLost` when the stream was reset or the tunnel broke;
    /// `ProtocolError`, `LimitReached` or `Unsupported` when the peer's bytes break the contract. The owner then drops
    /// both halves, which resets the stream.
    pub async fn next(&mut self) -> Option<Result<Part<M>, Failure>> {
        if self.failed {
            return None;
        }
        let part = match poll_fn(|cx| self.holder.poll_next(cx)).await {
            Some(piece) => piece.and_then(|piece| self.sort(piece)),
            None if self.fin => return None,
            None => Err(Failure::perhaps(Code::ProtocolError, "the peer ended its direction without `fin`")),
        };
        self.failed = part.is_err();
        Some(part)
    }

    fn sort(&mut self, piece: Piece) -> Result<Part<M>, Failure> {
        if self.fin {
            return Err(Failure::perhaps(Code::ProtocolError, "the peer sent a message after `fin`"));
        }
        let message = match piece {
            Piece::Data(bytes) => return Ok(Part::Data(bytes)),
            Piece::Message(bytes) => M::decode(bytes).map_err(DecodeError::from)?,
        };
        match message.sort() {
            Sorted::Data(bytes) => {
                self.credited += bytes.len();
                Ok(Part::Data(bytes))
            }
            Sorted::Fin(message) => {
                self.fin = true;
                Ok(Part::Message(message))
            }
            Sorted::Other(message) => Ok(Part::Message(message)),
            Sorted::Unknown => Err(Failure::perhaps(
                Code::Unsupported,
                "the peer sent a message of a kind that this version does not know",
            )),
        }
    }
}

impl<M> fmt::Debug for Receiver<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("holder", &self.holder).field("fin", &self.fin).finish_non_exhaustive()
    }
}
