//! Payload that needs no disk: a stream of any length, different in every block, with a known SHA-256.
use aws_lc_rs::digest::{Context, Digest, SHA256};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes per block: one write, larger than any frame on the way.
const BLOCK: usize = 256 * 1024;

/// Blocks of pseudo-random bytes, each marked with its number, so that a lost, doubled or swapped block shows.
#[derive(Debug)]
pub struct Pattern {
    block: Vec<u8>,
    number: u64,
    left: u64,
}

impl Pattern {
    /// A stream of `length` bytes; always the same for the same length.
    pub fn new(length: u64) -> Self {
        // A linear congruential generator: incompressible enough, and cheap.
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let block = (0..BLOCK)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect();
        Self { block, number: 0, left: length }
    }

    /// The next block, empty at the end.
    pub fn next_block(&mut self) -> &[u8] {
        self.block[..8].copy_from_slice(&self.number.to_le_bytes());
        self.number += 1;
        let length = usize::try_from(self.left).map_or(BLOCK, |left| left.min(BLOCK));
        self.left -= length as u64;
        &self.block[..length]
    }

    /// The whole stream's digest.
    pub fn digest(mut self) -> Digest {
        let mut context = Context::new(&SHA256);
        loop {
            let block = self.next_block();
            if block.is_empty() {
                return context.finish();
            }
            context.update(block);
        }
    }

    /// The whole stream in memory, for small ones.
    pub fn bytes(mut self) -> Bytes {
        let mut all = BytesMut::new();
        loop {
            let block = self.next_block();
            if block.is_empty() {
                return all.freeze();
            }
            all.extend_from_slice(block);
        }
    }

    /// Writes all of it.
    pub async fn send(mut self, to: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
        loop {
            let block = self.next_block();
            if block.is_empty() {
                return to.flush().await;
            }
            to.write_all(block).await?;
        }
    }
}

/// Reads exactly `length` bytes and gives their digest.
pub async fn receive(from: &mut (impl AsyncRead + Unpin), length: u64) -> std::io::Result<Digest> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; BLOCK];
    let mut left = length;
    while left > 0 {
        let room = usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK));
        let read = from.read(&mut buffer[..room]).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        context.update(&buffer[..read]);
        left -= read as u64;
    }
    Ok(context.finish())
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_sent_has_the_announced_digest() {
        let length = 3 * BLOCK as u64 + 17;
        let (mut near, mut far) = tokio::io::duplex(BLOCK);
        let (sent, received) = tokio::join!(Pattern::new(length).send(&mut near), receive(&mut far, length));
        sent.unwrap();
        assert_eq!(received.unwrap().as_ref(), Pattern::new(length).digest().as_ref());
    }

    #[test]
    fn no_two_blocks_are_equal() {
        let mut pattern = Pattern::new(2 * BLOCK as u64);
        let first = pattern.next_block().to_vec();
        assert_ne!(first, pattern.next_block());
    }
}
