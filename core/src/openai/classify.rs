//! Finds, 64 bytes at a time, what a JSON scan has to look at.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256i, _mm256_cmpeq_epi8, _mm256_min_epu8, _mm256_movemask_epi8, _mm256_or_si256, _mm256_set1_epi8,
    _mm256_setr_epi64x, _mm256_xor_si256,
};
use std::iter;

use wide::u8x16;

/// Bytes looked at in one step.
pub(super) const CHUNK: usize = 64;
/// Chunks that are tested together when most are plain.
const BLOCK_CHUNKS: usize = 4;
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
#[inline(always)]
pub(super) fn plain_chunks(text: &[u8]) -> usize {
    // In terms that compilers turn into vector code. A quote becomes 0x20; signed, what is not ASCII is below that too.
    let is_special = |byte: u8| ((byte ^ 0x02) as i8) <= 0x20 || byte == b'\\';
    let (blocks, _) = text.as_chunks::<{ BLOCK_CHUNKS * CHUNK }>();
    let plain =
        blocks.iter().take_while(|block| !block.iter().fold(false, |any, byte| any | is_special(*byte)));
    plain.count() * BLOCK_CHUNKS
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

/// As [`classify`], with vectors of 32 bytes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn classify_avx2(chunk: &[u8; CHUNK]) -> Classes {
    let (words, _) = chunk.as_chunks();
    let word = |index: usize| words.get(index).map_or(0, |word| i64::from_le_bytes(*word));
    // One load each, since the words lie side by side.
    let [first, second] =
        [0, 4].map(|at| _mm256_setr_epi64x(word(at), word(at + 1), word(at + 2), word(at + 3)));
    let special = |lane: __m256i| {
        let swapped = _mm256_xor_si256(lane, _mm256_set1_epi8(0x02));
        let low = _mm256_cmpeq_epi8(_mm256_min_epu8(swapped, _mm256_set1_epi8(0x20)), swapped);
        let found = _mm256_or_si256(low, _mm256_cmpeq_epi8(lane, _mm256_set1_epi8(b'\\' as i8)));
        u64::from(_mm256_movemask_epi8(found) as u32)
    };
    Classes {
        special: special(first) | special(second) << 32,
        non_ascii: _mm256_movemask_epi8(_mm256_or_si256(first, second)) != 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{BLOCK_CHUNKS, CHUNK, Classes, classify, plain_chunks};

    fn naive(chunk: &[u8; CHUNK]) -> Classes {
        let is_special = |byte: u8| byte == b'"' || byte == b'\\' || byte < 0x20;
        let special = chunk.iter().rev().fold(0, |mask, byte| mask << 1 | u64::from(is_special(*byte)));
        Classes { special, non_ascii: !chunk.is_ascii() }
    }

    /// What every set of instructions that this CPU has makes of a chunk.
    #[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "calls what is compiled for newer CPUs"))]
    fn all_answers(chunk: &[u8; CHUNK]) -> Vec<Classes> {
        let mut answers = vec![classify(chunk)];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2, which has just been asked for.
            answers.push(unsafe { super::classify_avx2(chunk) });
        }
        answers
    }

    #[test]
    fn every_byte_at_every_place() {
        for byte in 0..=255 {
            for place in 0..CHUNK {
                let mut chunk = [b'x'; CHUNK];
                chunk[place] = byte;
                for answer in all_answers(&chunk) {
                    assert_eq!(answer, naive(&chunk), "{byte:#x} at {place}");
                }
            }
        }
    }

    #[test]
    fn a_run_ends_before_every_byte_that_is_not_plain() {
        const BLOCK: usize = BLOCK_CHUNKS * CHUNK;
        let nothing = Classes { special: 0, non_ascii: false };
        for byte in 0..=255 {
            let is_plain = naive(&[byte; CHUNK]) == nothing;
            for place in 0..2 * BLOCK {
                let mut text = [b'x'; 2 * BLOCK + 1];
                text[place] = byte;
                let blocks = if is_plain { 2 } else { place / BLOCK };
                assert_eq!(plain_chunks(&text), blocks * BLOCK_CHUNKS, "{byte:#x} at {place}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_chunk(bytes in proptest::collection::vec(any::<u8>(), CHUNK)) {
            let chunk = bytes.first_chunk::<CHUNK>().unwrap();
            for answer in all_answers(chunk) {
                prop_assert_eq!(answer, naive(chunk));
            }
        }

        #[test]
        fn chunks_of_few_characters(bytes in proptest::collection::vec(prop_oneof![
            Just(b'x'), Just(b'"'), Just(b'\\'), Just(0x1F), Just(b' '), Just(b'!'), Just(b'#'), Just(0x80),
        ], CHUNK)) {
            let chunk = bytes.first_chunk::<CHUNK>().unwrap();
            for answer in all_answers(chunk) {
                prop_assert_eq!(answer, naive(chunk));
            }
        }
    }
}
