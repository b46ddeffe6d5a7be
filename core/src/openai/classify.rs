//! Finds, 64 bytes at a time, what a JSON scan has to look at.

/// Bytes looked at in one step.
pub(super) const CHUNK: usize = 64;

/// What 64 bytes hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Classes {
    /// How many bytes from the first on can stand inside a string as they are: none is `"`, `\` or a control character below 0x20.
    pub(super) plain: usize,
    /// Whether any of the 64 bytes is not ASCII.
    pub(super) non_ascii: bool,
}

/// Whether 64 bytes are ASCII and can all stand inside a string as they are.
#[inline]
pub(super) fn is_plain(chunk: &[u8; CHUNK]) -> bool {
    // Compilers turn this fold into vector code. `"` is 0x22, so exchanging 0x20 and 0x22 leaves one comparison for quotes and
    // control characters, and a signed one finds the bytes from 0x80 on as well.
    let is_suspect = |byte: u8| (byte == b'\\') | (((byte ^ 0x02) as i8) < 0x21);
    !chunk.iter().fold(false, |found, byte| found | is_suspect(*byte))
}

/// Classifies 64 bytes, a word of eight at a time.
#[inline]
pub(super) fn classify(chunk: &[u8; CHUNK]) -> Classes {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = ONES << 7;

    // A byte below `limit` borrows into its high bit, and then perhaps into the byte above: exact for the lowest, which counts.
    let below = |word: u64, limit: u64| word.wrapping_sub(limit * ONES) & !word;
    let (words, _) = chunk.as_chunks::<8>();
    let (mut special, mut all) = (0, 0);
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        all |= word;
        let found = below(word ^ (0x02 * ONES), 0x21) | below(word ^ (u64::from(b'\\') * ONES), 1);
        // Gathers the eight high bits in the topmost byte.
        special |= (((found & HIGH) >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * index);
    }
    Classes { plain: special.trailing_zeros() as usize, non_ascii: all & HIGH != 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAIN: Classes = Classes { plain: CHUNK, non_ascii: false };

    fn naive(chunk: &[u8; CHUNK]) -> Classes {
        let is_special = |byte: &u8| *byte == b'"' || *byte == b'\\' || *byte < 0x20;
        Classes { plain: chunk.iter().position(is_special).unwrap_or(CHUNK), non_ascii: !chunk.is_ascii() }
    }

    #[test]
    fn every_byte_at_every_place() {
        for byte in 0..=255 {
            for place in 0..CHUNK {
                let mut chunk = [b'x'; CHUNK];
                chunk[place] = byte;
                assert_eq!(classify(&chunk), naive(&chunk), "{byte:#x} at {place}");
                assert_eq!(is_plain(&chunk), naive(&chunk) == PLAIN, "{byte:#x} at {place}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_chunk(bytes in proptest::collection::vec(any::<u8>(), CHUNK)) {
            let chunk = bytes.first_chunk::<CHUNK>().unwrap();
            prop_assert_eq!(classify(chunk), naive(chunk));
        }

        #[test]
        fn chunks_of_few_characters(bytes in proptest::collection::vec(prop_oneof![
            Just(b'x'), Just(b'"'), Just(b'\\'), Just(0x1F), Just(b' '), Just(b'!'), Just(b'#'), Just(0x80),
        ], CHUNK)) {
            let chunk = bytes.first_chunk::<CHUNK>().unwrap();
            prop_assert_eq!(classify(chunk), naive(chunk));
        }
    }
}
