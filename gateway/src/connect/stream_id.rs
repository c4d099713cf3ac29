//! Names of streams: 26 characters that sort by time (the ULID layout: 48 bits of milliseconds, 80 random bits). Both
//! ends log the same one.
use std::{fmt, time::SystemTime};

/// Crockford's base 32: no letter that reads like a digit.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// A stream's name.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct StreamId([u8; 26]);

impl StreamId {
    /// A new one. Randomness only keeps names apart; it guards nothing.
    pub(crate) fn new(now: SystemTime) -> Self {
        let mut random = [0u8; 10];
        // Without randomness names made in one millisecond may collide, which harms nobody but a reader of logs.
        let _ = aws_lc_rs::rand::fill(&mut random);
        let millis = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let low = random.iter().fold(0u128, |bits, byte| bits << 8 | u128::from(*byte));
        Self::of((millis & ((1 << 48) - 1)) << 80 | low)
    }

    fn of(mut bits: u128) -> Self {
        let mut text = [b'0'; 26];
        for place in text.iter_mut().rev() {
            *place = ALPHABET[(bits & 31) as usize];
            bits >>= 5;
        }
        Self(text)
    }

    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ids_sort_by_time_and_differ() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000);
        let (early, same, late) =
            (StreamId::new(start), StreamId::new(start), StreamId::new(start + Duration::from_millis(1)));
        assert_ne!(early, same);
        assert!(early.as_str() < late.as_str());
        assert_eq!(early.as_str().len(), 26);
    }

    #[test]
    fn layout_is_time_then_randomness() {
        assert_eq!(StreamId::of(u128::MAX).as_str(), "7ZZZZZZZZZZZZZZZZZZZZZZZZZ");
        assert_eq!(StreamId::of(1 << 80).as_str(), "00000000010000000000000000");
    }
}
