//! Masking (RFC 6455 section 5.3): XOR with a four-byte key that repeats from the first byte of the payload.
//!
//! Payload arrives and leaves in pieces, so every call takes the piece's offset in its frame and turns the key to
//! that phase. The loops run over whole words, which the compiler gathers into vector instructions; a byte loop
//! would cost many times what the encryption of the same bytes costs.

/// The key as it applies from `offset` bytes into the payload, repeated to one word.
fn pattern(key: [u8; 4], offset: u64) -> [u8; 8] {
    let turn = (offset % 4) as usize;
    std::array::from_fn(|at| key[(at + turn) % 4])
}

/// Masks or unmasks `bytes`, which begin `offset` bytes into their payload. The operation is its own inverse.
pub fn apply(key: [u8; 4], offset: u64, bytes: &mut [u8]) {
    if key == [0; 4] {
        return;
    }
    let pattern = pattern(key, offset);
    let mask = u64::from_ne_bytes(pattern);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ mask).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(pattern) {
        *byte ^= key;
    }
}

/// Copies `from` into `to` and masks it in the same pass. Both have one length.
pub fn copy(key: [u8; 4], offset: u64, from: &[u8], to: &mut [u8]) {
    debug_assert_eq!(from.len(), to.len());
    let pattern = pattern(key, offset);
    let mask = u64::from_ne_bytes(pattern);
    let (from_words, from_rest) = from.as_chunks::<8>();
    let (to_words, to_rest) = to.as_chunks_mut::<8>();
    for (from, to) in from_words.iter().zip(to_words) {
        *to = (u64::from_ne_bytes(*from) ^ mask).to_ne_bytes();
    }
    for ((from, to), key) in from_rest.iter().zip(to_rest).zip(pattern) {
        *to = from ^ key;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn by_the_letter(key: [u8; 4], offset: u64, bytes: &[u8]) -> Vec<u8> {
        bytes.iter().enumerate().map(|(at, byte)| byte ^ key[((offset + at as u64) % 4) as usize]).collect()
    }

    #[test]
    fn example_of_the_rfc_is_reproduced() {
        let mut hello = *b"Hello";
        apply([0x37, 0xfa, 0x21, 0x3d], 0, &mut hello);
        assert_eq!(hello, [0x7f, 0x9f, 0x4d, 0x51, 0x58]);
    }

    proptest! {
        #[test]
        fn any_piece_at_any_offset_is_masked_by_the_letter(
            key: [u8; 4], offset in 0u64..1000, bytes in proptest::collection::vec(any::<u8>(), 0..300)
        ) {
            let expected = by_the_letter(key, offset, &bytes);
            let mut in_place = bytes.clone();
            apply(key, offset, &mut in_place);
            prop_assert_eq!(&in_place, &expected);
            let mut copied = vec![0; bytes.len()];
            copy(key, offset, &bytes, &mut copied);
            prop_assert_eq!(&copied, &expected);
        }
    }
}
