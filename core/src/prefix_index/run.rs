//! A run: one contiguous array of chained hashes and who holds how much of it.

use super::holders::Holders;
use super::storage;
use super::table::RootHolders;

/// A stretch of one path through the tree of prefixes.
///
/// It is as long as its longest holder's share, never empty, and never split: what diverges inside it
/// is a run of its own that the root table finds by its first hash.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) hashes: Vec<u64>,
    pub(super) holders: Holders,
}

impl Run {
    pub(super) fn new(hashes: Vec<u64>) -> Self {
        Self { hashes, holders: Holders::default() }
    }

    pub(super) fn first(&self) -> u64 {
        self.hashes.first().copied().unwrap_or_default()
    }

    /// Blocks in the run.
    pub(super) fn length(&self) -> u32 {
        // A run grows only by paths that `PrefixIndex::insert` has cut to `u32::MAX` blocks.
        self.hashes.len() as u32
    }

    /// The holders as the root table keeps them.
    pub(super) fn root_holders(&self) -> RootHolders {
        self.holders.summary(self.length())
    }

    /// Lengthens the run, with at most a quarter of slack for the next turn of the conversation.
    pub(super) fn extend(&mut self, hashes: &[u64]) {
        let length = self.hashes.len() + hashes.len();
        if length > self.hashes.capacity() {
            self.hashes.reserve_exact(hashes.len().max(self.hashes.len() / 4 + 1));
        }
        self.hashes.extend_from_slice(hashes);
    }

    /// Shortens the run to `length` blocks and gives back memory once a good part of it is idle.
    pub(super) fn truncate(&mut self, length: u32) {
        self.hashes.truncate(length as usize);
        storage::release(&mut self.hashes);
    }

    /// How many leading blocks of `path` are the leading blocks of this run.
    #[inline]
    pub(super) fn common_prefix(&self, path: &[u64]) -> u32 {
        common_prefix(&self.hashes, path)
    }

    /// How many leading blocks of `path` are those of this run from `start` on.
    pub(super) fn common_prefix_after(&self, start: u32, path: &[u64]) -> u32 {
        self.hashes.get(start as usize..).map_or(0, |hashes| common_prefix(hashes, path))
    }

    pub(super) fn heap_bytes(&self) -> usize {
        storage::heap_bytes(&self.hashes) + self.holders.heap_bytes()
    }
}

/// A chained hash commits to all before it, so equality is monotone along a path: one comparison at the far end settles a
/// full match, and a bisection finds a divergence.
#[inline]
fn common_prefix(run: &[u64], path: &[u64]) -> u32 {
    let comparable = run.len().min(path.len());
    let (Some(mine), Some(theirs)) = (run.get(..comparable), path.get(..comparable)) else {
        return 0;
    };
    if mine.last() == theirs.last() {
        return comparable as u32;
    }
    let (mut equal, mut differs) = (0, comparable.saturating_sub(1));
    while equal < differs {
        let middle = equal + (differs - equal) / 2;
        if mine.get(middle) == theirs.get(middle) {
            equal = middle + 1;
        } else {
            differs = middle;
        }
    }
    equal as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_prefix_finds_every_divergence() {
        for length in 1..40_u64 {
            let run = Run::new((0..length).collect());
            for path_length in 1..40 {
                for divergence in 0..=path_length {
                    let path: Vec<u64> =
                        (0..path_length).map(|at| if at < divergence { at } else { at + 1_000 }).collect();
                    assert_eq!(u64::from(run.common_prefix(&path)), divergence.min(length));
                }
            }
        }
    }

    #[test]
    fn truncate_gives_memory_back() {
        let mut run = Run::new(vec![7; 8192]);
        run.truncate(100);
        assert!(run.heap_bytes() < 2_000, "{}", run.heap_bytes());
        run.extend(&[7; 28]);
        assert_eq!(run.length(), 128);
    }
}
