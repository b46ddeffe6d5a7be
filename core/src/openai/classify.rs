//! Finds, 64 bytes at a time, what a JSON scan has to look at.

use std::iter;

use memchr::memchr2;
use wide::u8x16;

/// Bytes looked at in one step.
pub(super) const CHUNK: usize = 64;
/// Bytes of a vector: what every x86-64 and 64-bit ARM has.
const LANE: usize = 16;

/// What 64 bytes hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Classes {
    /// Bit i is set when byte i cannot stand inside a string as it is: `"`, `\` or a control character below 0x20.
    pub(super) special: u64,
    /// Whether any byte is not ASCII.
    pub(super) non_ascii: bool,
}

impl Classes {
    /// Places of the bytes that cannot stand inside a string as they are, first one first.
    #[inline]
    pub(super) fn places(self) -> impl Iterator<Item = usize> {
        let mut rest = self.special;
        iter::from_fn(move || {
            let place = rest.trailing_zeros() as usize;
            (rest != 0).then(|| {
                rest &= rest - 1;
                place
            })
        })
    }
}

/// How many chunks from the first on are ASCII and can stand inside a string as they are; perhaps too few, never too many.
#[inline]
pub(super) fn plain_chunks(text: &[u8]) -> usize {
    // Two fast passes: one that compares with two values, with the widest vectors of the CPU, and one that compilers
    // turn into vector code. Signed, so that it finds what is not ASCII as well.
    let chunks = memchr2(b'"', b'\\', text).unwrap_or(text.len()) / CHUNK;
    let plain = text.get(..chunks * CHUNK).unwrap_or_default();
    let is_suspect = |byte: u8| (byte as i8) < 0x20;
    if plain.iter().fold(false, |found, byte| found | is_suspect(*byte)) { 0 } else { chunks }
}

/// Classifies 64 bytes.
#[inline]
pub(super) fn classify(chunk: &[u8; CHUNK]) -> Classes {
    let (lanes, _) = chunk.as_chunks::<LANE>();
    let (mut special, mut all) = (0, u8x16::ZERO);
    for (index, lane) in lanes.iter().enumerate() {
        let lane = u8x16::new(*lane);
        let swapped = lane ^ u8x16::splat(0x02);
        let found = swapped.min(u8x16::splat(0x20)).cmp_eq(swapped) | lane.cmp_eq(u8x16::splat(b'\\'));
        special |= u64::from(found.move_mask() as u32) << (index * LANE);
        all |= lane;
    }
    Classes { special, non_ascii: all.move_mask() != 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{CHUNK, Classes, classify, plain_chunks};

    fn naive(chunk: &[u8; CHUNK]) -> Classes {
        let is_special = |byte: u8| byte == b'"' || byte == b'\\' || byte < 0x20;
        let special = chunk.iter().rev().fold(0, |mask, byte| mask << 1 | u64::from(is_special(*byte)));
        Classes { special, non_ascii: !chunk.is_ascii() }
    }

    #[test]
    fn every_byte_at_every_place() {
        for byte in 0..=255 {
            for place in 0..CHUNK {
                let mut chunk = [b'x'; CHUNK];
                chunk[place] = byte;
                assert_eq!(classify(&chunk), naive(&chunk), "{byte:#x} at {place}");
                let nothing = Classes { special: 0, non_ascii: false };
                assert_eq!(
                    plain_chunks(&chunk),
                    usize::from(naive(&chunk) == nothing),
                    "{byte:#x} at {place}"
                );
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
