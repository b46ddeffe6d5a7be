//! What a look-up needs of a run: one cache line of the root table.

use super::storage;

/// The entry of a run in the root table; it owns the run's hashes.
///
/// If few endpoints hold the run, or up to 64 all of it, a hit on the whole run touches this one cache line. Of a
/// path that leaves the run, the fingerprints say where, and one line of the hashes proves it.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct RootEntry {
    /// Chained hash of the run's first block: the key.
    pub(super) first: u64,
    /// Chained hash of the run's last block.
    last: u64,
    /// Position of the run in the index.
    pub(super) run: u32,
    /// Blocks in the run, with [`ALL`] added if `holders` is a set of endpoints.
    length: u32,
    /// A set of endpoints below 64, or one endpoint in the low and its blocks in the high half.
    holders: u64,
    /// The run's hashes, then idle room.
    hashes: Box<[u64]>,
    /// A byte of the last hash of every 2^`stride_bits` blocks.
    fingerprints: [u8; FINGERPRINTS],
    stride_bits: u8,
}

/// The holders of a run as far as its root entry knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RootHolders {
    /// One endpoint holds this many blocks of the run.
    One { endpoint: u32, held: u32 },
    /// The endpoints whose bits are set hold all of the run.
    All(u64),
    /// They have to be read from the run.
    InRun,
}

const ALL: u32 = 1 << 31;
const FINGERPRINTS: usize = 15;

impl RootEntry {
    /// The entry of a run whose holders are not known yet.
    pub(super) fn new(run: u32, hashes: Vec<u64>) -> Self {
        let mut entry = Self {
            first: hashes.first().copied().unwrap_or_default(),
            run,
            hashes: hashes.into_boxed_slice(),
            holders: u64::MAX,
            ..Self::default()
        };
        entry.set_length(entry.hashes.len());
        entry
    }

    /// Blocks in the run.
    #[inline]
    pub(super) fn length(&self) -> u32 {
        self.length & !ALL
    }

    /// The hashes of all blocks in the run.
    pub(super) fn hashes(&self) -> &[u64] {
        self.hashes.get(..self.length() as usize).unwrap_or_default()
    }

    #[inline]
    pub(super) fn holders(&self) -> RootHolders {
        if self.length & ALL != 0 {
            RootHolders::All(self.holders)
        } else if self.holders == u64::MAX {
            RootHolders::InRun
        } else {
            RootHolders::One { endpoint: self.holders as u32, held: (self.holders >> 32) as u32 }
        }
    }

    pub(super) fn set_holders(&mut self, holders: RootHolders) {
        self.length = self.length();
        self.holders = match holders {
            RootHolders::One { endpoint, held } => u64::from(held) << 32 | u64::from(endpoint),
            RootHolders::All(endpoints) => {
                self.length |= ALL;
                endpoints
            }
            RootHolders::InRun => u64::MAX,
        };
    }

    /// Lengthens the run, with at most a quarter of slack for the next turn of the conversation.
    pub(super) fn extend(&mut self, hashes: &[u64]) {
        let before = self.length() as usize;
        let length = before + hashes.len();
        if let Some(room) = self.hashes.get_mut(before..length) {
            room.copy_from_slice(hashes);
        } else {
            let capacity = before + hashes.len().max(before / 4 + 1);
            let mut grown = Vec::with_capacity(capacity);
            grown.extend_from_slice(self.hashes());
            grown.extend_from_slice(hashes);
            grown.resize(capacity, 0);
            self.hashes = grown.into_boxed_slice();
        }
        self.set_length(length);
    }

    /// Shortens the run and gives back memory once a good part of it is idle.
    pub(super) fn truncate(&mut self, length: u32) {
        let length = length as usize;
        if self.hashes.len() > length + length / 2 + 8 {
            self.hashes = self.hashes.iter().copied().take(length + length / 8).collect();
        }
        self.set_length(length);
    }

    /// Takes over a new length, up to which the hashes are there.
    fn set_length(&mut self, length: usize) {
        let before = self.length() as usize;
        // A run grows only by paths that `PrefixIndex::insert` has cut to `i32::MAX` blocks.
        self.length = length as u32 | self.length & ALL;
        let hashes = self.hashes.get(..length).unwrap_or_default();
        self.last = hashes.last().copied().unwrap_or_default();
        let bits = stride_bits(length);
        let known = if bits == self.stride_bits { before >> bits } else { 0 };
        self.stride_bits = bits;
        for (place, hashes) in self.fingerprints.iter_mut().zip(hashes.chunks_exact(1 << bits)).skip(known) {
            *place = hashes.last().copied().map_or(0, fingerprint);
        }
    }

    /// How many leading blocks of `path` are the leading blocks of this run.
    ///
    /// A chained hash commits to all before it, so equality is monotone along a path: one comparison at the far end
    /// settles a full match, and a bisection finds a divergence. It begins with the fingerprints, because each step in
    /// the hashes of a long run may wait for memory.
    #[inline]
    pub(super) fn common_prefix(&self, path: &[u64]) -> u32 {
        let length = self.length() as usize;
        if path.get(length.wrapping_sub(1)) == Some(&self.last) {
            return length as u32;
        }
        let comparable = length.min(path.len());
        let (Some(mine), Some(theirs)) = (self.hashes.get(..comparable), path.get(..comparable)) else {
            return 0;
        };
        if comparable < length && mine.last() == theirs.last() {
            return comparable as u32;
        }
        let is_equal = |at: usize| mine.get(at).zip(theirs.get(at)).is_some_and(|(a, b)| a == b);
        let shift = self.stride_bits;
        let last_of_stride = (1 << shift) - 1;
        let strides = partition(0, FINGERPRINTS, |at| {
            let hash = theirs.get(at << shift | last_of_stride);
            let print = self.fingerprints.get(at);
            hash.zip(print).is_some_and(|(&hash, &print)| fingerprint(hash) == print)
        });
        let start = strides << shift;
        // These are branches so that what needs the result need not wait for the hashes.
        if is_equal(start) {
            return partition(start + 1, comparable.min(start + last_of_stride), is_equal) as u32;
        }
        if start > 0 && !is_equal(start - 1) {
            return self.common_prefix_before(start - 1, path);
        }
        start as u32
    }

    /// The same if the path leaves the run before `end`: different hashes may have the same fingerprint.
    #[cold]
    fn common_prefix_before(&self, end: usize, path: &[u64]) -> u32 {
        partition(0, end, |at| self.hashes.get(at) == path.get(at)) as u32
    }

    /// How many leading blocks of `path` are those of this run from `start` on.
    pub(super) fn common_prefix_after(&self, start: u32, path: &[u64]) -> u32 {
        let rest = self.hashes().get(start as usize..).unwrap_or_default();
        let comparable = rest.len().min(path.len());
        let is_equal = |at: usize| rest.get(at) == path.get(at);
        if comparable == 0 || is_equal(comparable - 1) {
            return comparable as u32;
        }
        partition(0, comparable - 1, is_equal) as u32
    }

    /// True if what is kept of the hashes agrees with them.
    pub(super) fn is_consistent(&self) -> bool {
        let fresh = Self::new(self.run, self.hashes().to_vec());
        let samples = (self.hashes().len() >> self.stride_bits).min(FINGERPRINTS);
        (self.first, self.last, self.stride_bits) == (fresh.first, fresh.last, fresh.stride_bits)
            && self.fingerprints.get(..samples) == fresh.fingerprints.get(..samples)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        storage::allocated(size_of_val(&*self.hashes))
    }
}

/// The first place from `start` up to `end` where `holds`, true before and false after it, is false.
#[inline]
fn partition(mut start: usize, mut end: usize, holds: impl Fn(usize) -> bool) -> usize {
    while start < end {
        let middle = start + (end - start) / 2;
        if holds(middle) {
            start = middle + 1;
        } else {
            end = middle;
        }
    }
    start
}

/// Logarithm of the blocks per fingerprint in a run of `length` blocks: there is none for what follows the last stride.
fn stride_bits(length: usize) -> u8 {
    (usize::BITS - (length.saturating_sub(1) / (FINGERPRINTS + 1)).leading_zeros()) as u8
}

#[inline]
fn fingerprint(hash: u64) -> u8 {
    (hash >> 56) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes all of whose fingerprints are equal, and such whose fingerprints are as good as random.
    const SPREADS: [u64; 2] = [1, 0x9e37_79b9_7f4a_7c15];

    #[test]
    fn an_entry_is_one_cache_line() {
        assert_eq!((size_of::<RootEntry>(), align_of::<RootEntry>()), (64, 64));
    }

    #[test]
    fn common_prefix_finds_every_divergence() {
        for spread in SPREADS {
            let path = |length: u64, divergence: u64| -> Vec<u64> {
                let hash = |at| if at < divergence { at } else { at + 1_000 };
                (0..length).map(|at| (hash(at) + 1).wrapping_mul(spread)).collect()
            };
            for length in 1..50 {
                let run = RootEntry::new(0, path(length, length));
                for path_length in 1..50 {
                    for divergence in 1..=path_length {
                        let path = path(path_length, divergence);
                        let expected = divergence.min(length);
                        assert_eq!(u64::from(run.common_prefix(&path)), expected);
                        for start in 0..expected as u32 {
                            let rest = run.common_prefix_after(start, &path[start as usize..]);
                            assert_eq!(u64::from(start + rest), expected);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_run_that_changes_its_length_is_as_if_it_were_new() {
        let hashes: Vec<u64> = (1..300).map(|at: u64| at.wrapping_mul(SPREADS[1])).collect();
        let mut run = RootEntry::new(0, hashes[..1].to_vec());
        let mut before = 1;
        for length in [1, 2, 16, 17, 18, 31, 32, 33, 100, 299, 298, 290, 288, 287, 64, 20, 16, 15, 3, 2, 1] {
            if length > before {
                run.extend(&hashes[before..length]);
            } else {
                run.truncate(length as u32);
            }
            before = length;
            assert!(run.is_consistent());
            assert_eq!(run.hashes(), &hashes[..length]);
        }
    }

    #[test]
    fn truncate_gives_memory_back() {
        let mut run = RootEntry::new(0, vec![7; 8192]);
        run.truncate(100);
        assert!(run.heap_bytes() < 2_000, "{}", run.heap_bytes());
        run.extend(&[7; 28]);
        assert_eq!(run.length(), 128);
    }
}
