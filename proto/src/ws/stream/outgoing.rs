//! Bytes promised to the peer and not yet taken by the transport. The buffer exists while there is something in it and
//! is kept between frames only as long as frames fill it.
use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::BufMut;
use tokio::io::AsyncWrite;

use crate::ws::mask;

/// Smallest allocation: control frames and small requests share one size.
const SMALLEST: usize = 512;

/// A byte queue that is zeroed once when it is allocated and then only overwritten.
#[derive(Default)]
pub(super) struct Outgoing {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    /// Highest fill since the last flush.
    peak: usize,
}

impl Outgoing {
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// `len` bytes at the end, to be overwritten.
    fn grow(&mut self, len: usize) -> &mut [u8] {
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
        if self.bytes.len() - self.end < len {
            let held = self.end - self.start;
            let mut larger = vec![0; (held + len).next_power_of_two().max(SMALLEST)].into_boxed_slice();
            larger[..held].copy_from_slice(&self.bytes[self.start..self.end]);
            (self.bytes, self.start, self.end) = (larger, 0, held);
        }
        let at = self.end;
        self.end += len;
        self.peak = self.peak.max(self.end);
        &mut self.bytes[at..self.end]
    }

    /// Appends `bytes`.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.grow(bytes.len()).copy_from_slice(bytes);
    }

    /// Appends a frame of `total` payload bytes out of `slices` behind `head`, masked if there is a key.
    pub(super) fn push_frame<'a>(
        &mut self,
        head: &[u8],
        slices: impl Iterator<Item = &'a [u8]>,
        total: usize,
        key: Option<[u8; 4]>,
    ) {
        let room = self.grow(head.len() + total);
        let (front, mut payload) = room.split_at_mut(head.len());
        front.copy_from_slice(head);
        let mut offset = 0;
        for slice in slices {
            let (to, rest) = payload.split_at_mut(slice.len());
            match key {
                Some(key) => mask::copy(key, offset, slice, to),
                None => to.copy_from_slice(slice),
            }
            offset += slice.len() as u64;
            payload = rest;
        }
        debug_assert!(payload.is_empty());
    }

    /// Ready when the transport has taken everything.
    pub(super) fn poll_drain<IO: AsyncWrite + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            match ready!(Pin::new(&mut *io).poll_write(cx, &self.bytes[self.start..self.end]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                taken => self.start += taken,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Called when all is flushed: lets go of a buffer that was hardly used since the last time.
    pub(super) fn settle(&mut self) {
        if self.is_empty() && self.peak < self.bytes.len() / 4 {
            *self = Self::default();
        }
        self.peak = 0;
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing").field("waiting", &(self.end - self.start)).field("room", &self.bytes.len()).finish()
    }
}

/// A few header bytes on the stack: what goes in front of the caller's slices.
pub(super) struct Head {
    bytes: [u8; Self::MAX],
    len: usize,
}

impl Head {
    /// One Pong with its header, and the header of the data frame behind it.
    const MAX: usize = 6 + crate::ws::frame::CONTROL_MAX + crate::ws::frame::HEADER_MAX;

    pub(super) fn new() -> Self {
        Self { bytes: [0; Self::MAX], len: 0 }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Appends what `write` puts; it must fit.
    pub(super) fn put(&mut self, write: impl FnOnce(&mut dyn BufMut)) {
        let mut room = &mut self.bytes[self.len..];
        write(&mut room);
        self.len = Self::MAX - room.len();
    }
}
