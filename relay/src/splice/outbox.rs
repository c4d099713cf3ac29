//! Bytes that wait to be written, gathered into few large writes.
//!
//! Large payloads are queued as they are; headers and small payloads are copied together. A splice refills an outbox only
//! when it is empty, so it never holds more than one read of the other side and the headers for it.
use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, BytesMut};
use proto::ws::mask;

/// From this size on a payload is queued as it lies: below, a slice of its own costs more than the copy.
pub(super) const COPIED_MAX: usize = 4 * 1024;

/// Room for headers and small payloads that is made at once.
const SCRATCH: usize = 512;

/// The queue of one leg.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: VecDeque<BytesMut>,
    /// Headers and small payloads behind the queue.
    scratch: BytesMut,
}

impl Outbox {
    /// Appends a header and its payload as it lies.
    pub(crate) fn push(&mut self, header: &[u8], payload: BytesMut) {
        self.room(header.len());
        self.scratch.extend_from_slice(header);
        if !self.scratch.is_empty() {
            self.queue.push_back(self.scratch.split());
        }
        self.queue.push_back(payload);
    }

    /// Appends a header and a copy of its payload, masked with `key`.
    pub(crate) fn copy(&mut self, header: &[u8], key: [u8; 4], payload: &[u8]) {
        self.room(header.len() + payload.len());
        self.scratch.extend_from_slice(header);
        let at = self.scratch.len();
        self.scratch.extend_from_slice(payload);
        mask::apply(key, 0, &mut self.scratch[at..]);
    }

    /// Where a control frame is written to.
    pub(crate) fn tail(&mut self) -> &mut BytesMut {
        self.room(SCRATCH);
        &mut self.scratch
    }

    /// Lets go of memory that an empty outbox holds.
    pub(crate) fn settle(&mut self) {
        debug_assert!(!self.has_remaining());
        self.scratch = BytesMut::new();
        self.queue = VecDeque::new();
    }

    fn room(&mut self, bytes: usize) {
        if self.scratch.capacity() - self.scratch.len() < bytes {
            self.scratch.reserve(bytes.max(SCRATCH));
        }
    }
}

impl Buf for Outbox {
    fn remaining(&self) -> usize {
        self.queue.iter().map(BytesMut::len).sum::<usize>() + self.scratch.len()
    }

    fn chunk(&self) -> &[u8] {
        self.queue.front().map_or(&self.scratch[..], |first| &first[..])
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let chunks = self.queue.iter().chain(std::iter::once(&self.scratch)).filter(|chunk| !chunk.is_empty());
        let mut filled = 0;
        for (slice, chunk) in slices.iter_mut().zip(chunks) {
            *slice = IoSlice::new(chunk);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut bytes: usize) {
        while let Some(first) = self.queue.front_mut() {
            if bytes < first.len() {
                first.advance(bytes);
                return;
            }
            bytes -= first.len();
            self.queue.pop_front();
        }
        self.scratch.advance(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(outbox: &mut Outbox, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while outbox.has_remaining() {
            let mut slices = [IoSlice::new(&[]); 4];
            let count = outbox.chunks_vectored(&mut slices);
            let some: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).take(step).collect();
            all.extend_from_slice(&some);
            outbox.advance(some.len());
        }
        all
    }

    #[test]
    fn what_goes_in_comes_out_in_order_however_it_is_written() {
        for step in [1, 7, 1500, 100_000] {
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            for (index, size) in [0, 10, 2000, 5, COPIED_MAX, COPIED_MAX - 1, 70_000].into_iter().enumerate() {
                let (header, payload) = ([index as u8; 3], vec![index as u8 + 100; size]);
                if payload.len() < COPIED_MAX {
                    outbox.copy(&header, [0; 4], &payload);
                } else {
                    outbox.push(&header, BytesMut::from(&payload[..]));
                }
                expected.extend_from_slice(&header);
                expected.extend_from_slice(&payload);
            }
            assert_eq!(outbox.remaining(), expected.len());
            assert_eq!(written(&mut outbox, step), expected, "{step} bytes a write");
        }
    }

    #[test]
    fn a_large_payload_is_not_copied() {
        let mut outbox = Outbox::default();
        let payload = BytesMut::from(&[7; 4096][..]);
        let at = payload.as_ptr();
        outbox.push(b"h", payload);
        assert_eq!(outbox.queue[1].as_ptr(), at);
    }
}
