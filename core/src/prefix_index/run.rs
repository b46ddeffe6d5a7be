//! A run: a stretch of one path through the tree of prefixes.

use super::holders::Holders;

/// Who holds a run, and how to find its [`RootEntry`](super::root::RootEntry), which has its hashes.
///
/// A run is as long as its longest holder's share, never empty, and never split: what diverges inside it
/// is a run of its own that the root table finds by its first hash.
#[derive(Debug)]
pub(super) struct Run {
    first: u64,
    pub(super) holders: Holders,
}

impl Run {
    pub(super) fn new(first: u64) -> Self {
        Self { first, holders: Holders::default() }
    }

    /// Chained hash of the run's first block: its key in the root table.
    pub(super) fn first(&self) -> u64 {
        self.first
    }
}
