//! Masking keys that nobody can predict (RFC 6455 section 5.3), drawn from the system's generator in bulk.
//!
//! One refill serves a thousand frames, so a frame does not pay for a call into the generator. The pool is made on the
//! first frame; a connection that never sends holds none.
use std::{fmt, io};

/// Bytes drawn at once: 1,024 keys, 64 MiB of full frames.
const REFILL: usize = 4096;

/// A supply of keys for one connection.
#[derive(Default)]
pub struct Keys {
    pool: Vec<[u8; 4]>,
}

impl Keys {
    /// The next key; it is never given out again.
    pub fn draw(&mut self) -> io::Result<[u8; 4]> {
        if let Some(key) = self.pool.pop() {
            return Ok(key);
        }
        let mut fresh = [0; REFILL];
        aws_lc_rs::rand::fill(&mut fresh).map_err(|_| io::Error::other("the system gives no random numbers"))?;
        self.pool = fresh.as_chunks::<4>().0.to_vec();
        self.pool.pop().ok_or_else(|| io::Error::other("empty refill"))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("left", &self.pool.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_differ_across_refills() {
        let mut keys = Keys::default();
        let drawn: HashSet<[u8; 4]> = (0..3000).map(|_| keys.draw().unwrap()).collect();
        // Among 3,000 draws of 32 bits a handful may collide by chance; a repeated pool would collide by the thousand.
        assert!(drawn.len() > 2990);
    }
}
