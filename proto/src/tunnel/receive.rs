//! The receiving half of a stream: data is handed on as it arrives, and credit returns only when it was taken.
use bytes::Bytes;
use prost::Message;

use super::failure::Failure;

/// One part of a direction: bytes of payload, or any other message of the contract.
#[derive(Debug)]
pub enum Part<M> {
    /// A piece of payload. Say `taken(len)` once the next hop has accepted it.
    Data(Bytes),
    /// Any message but `data`.
    Message(M),
}

/// Receives one direction of a `Forward` call. `M` is `pb::ForwardRequest` or `pb::ForwardResponse`.
#[derive(Debug)]
pub struct Receiver<M> {
    _m: std::marker::PhantomData<M>,
}

impl<M: Message + Default> Receiver<M> {
    /// The next part; `None` when the call ended with status OK. Cancel-safe. Messages return their credit at once,
    /// data does not.
    pub async fn next(&mut self) -> Option<Result<Part<M>, Failure>> {
        todo!()
    }

    /// Gives the peer credit for `bytes` that the next hop has accepted.
    pub fn taken(&mut self, bytes: usize) {
        let _ = bytes;
        todo!()
    }
}
