//! Step 2 of a pick: for every endpoint, how many leading blocks of this prompt does it hold?
//!
//! # The structure
//!
//! Blocks are named by chained hashes: the hash of block `i` commits to all blocks before it, so equal hashes mean
//! equal prefixes. The index is a tree of prefixes whose edges are *runs*, each one contiguous array of hashes:
//!
//! ```text
//!  root table                    runs                                           holders (endpoint: blocks held)
//!  first hash ──► run
//!      a      ──► 0     a b c d e f g h i j k l m n o p                         0: 16   1: 9   2: 9   3: 4
//!                             │         │
//!      s      ──► 1           │         └► s t u v w     (continues run 0 after i)   1: 5
//!      x      ──► 2           └► x y                     (continues run 0 after d)   3: 2
//! ```
//!
//! * **Never split.** A path that leaves a run, at its end or inside it, goes on in a run of its own. Its first
//!   hash identifies the whole prefix, so the one root table finds it from anywhere: runs know neither
//!   parents nor children, and a divergence inside a run of 8192 blocks that 1000 endpoints hold moves nothing.
//! * **One comparison per run.** If the last comparable hashes are equal, all are; if not, a bisection finds where the
//!   path leaves. What it reads first, a byte of each of some hashes, is in the one cache line that the root table has
//!   of a run, so it waits for memory once more at most. A look-up costs the number of runs, not of blocks.
//! * **Nothing grows at once.** Runs and segments are in chunks and the root table splits piece by piece, so no insert
//!   waits for millions of entries to move.
//! * **Shares are lengths.** An engine evicts a prefix from its end, so what an endpoint holds of a run is a number.
//!   The holders of a run that continues another one hold that other one up to there.
//! * **Recency in segments.** Each endpoint keeps one list of (run, stretch) in the order of last use. Using a path
//!   moves one entry per run, and eviction from the other end is exactly the per-block order: least recently
//!   used first, and of the blocks used together the deepest first. No prefix is ever held without its head.
//!
//! What it is not for: prompts whose hashes are not chained. The index then still terminates, but its
//! answers mean nothing.

mod event_index;
mod holders;
mod recency;
mod root;
mod run;
mod snapshot;
mod storage;
mod table;
mod tree;
mod validate;

pub use event_index::{EventIndex, Position, StoredBlocks};

use holders::Holder;
use recency::Recency;
use run::Run;
use tree::{PathStep, Tree};

/// Which endpoint holds which prefix: the picker's copy of the engines' KV caches.
///
/// Endpoints are small dense slot numbers; the caller may use a slot again after [`clear`](Self::clear).
/// It has one writer and takes no locks; the scheduler puts it behind one.
///
/// # Example
///
/// ```
/// use p3sched::prefix_index::PrefixIndex;
///
/// let mut index = PrefixIndex::new(1 << 20);
/// index.set_capacity(0, 1_000);
/// index.set_capacity(1, 1_000);
/// index.insert(0, &[11, 12, 13]);
/// index.insert(1, &[11, 12, 99]);
///
/// let mut matched = [0; 2];
/// index.find(&[11, 12, 13, 14], &mut matched);
/// assert_eq!(matched, [3, 2]);
/// ```
#[derive(Debug)]
pub struct PrefixIndex {
    max_bytes: usize,
    tree: Tree,
    recency: Recency,
    /// The path of the insert in progress, head first; kept for its memory.
    path: Vec<PathStep>,
}

/// How much of a [`PrefixIndex`] is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixIndexStats {
    /// Different blocks held by any endpoint.
    pub unique_blocks: usize,
    /// Runs that these blocks form.
    pub runs: usize,
    /// Pairs of an endpoint and a run of which it holds at least one block.
    pub holdings: usize,
    /// Entries in the recency lists, at least one per holding.
    pub segments: usize,
    /// Heap bytes occupied, idle capacity and the allocator's headers included.
    pub bytes: usize,
}

/// Steps of the path for which memory is kept between inserts.
const KEPT_PATH: usize = 32;

impl PrefixIndex {
    /// Creates an empty index that occupies at most `max_bytes`.
    ///
    /// Beyond that bound the endpoint with the most blocks loses its least recent ones.
    /// A fixed remainder of about 1 KiB, and up to 48 bytes per endpoint slot, cannot be given back.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, tree: Tree::new(), recency: Recency::default(), path: Vec::new() }
    }

    /// Sets how many blocks an endpoint can hold; 0, as for every endpoint not heard of, holds none.
    ///
    /// When lower than before, the least recent blocks go at once.
    ///
    /// # Complexity
    ///
    /// Memory is proportional to the largest `endpoint` ever given, so slots must be small and dense.
    pub fn set_capacity(&mut self, endpoint: u32, blocks: usize) {
        self.recency.set_capacity(endpoint, blocks);
        self.evict_to_capacity(endpoint);
        self.evict_to_bound();
    }

    /// Writes to `matched[endpoint]` how many leading blocks of the path `hashes` each endpoint holds.
    ///
    /// The result is 0 for slots that hold nothing or were never given a capacity; endpoints beyond `matched` are
    /// left out. Finding is not using: recency does not change.
    ///
    /// # Complexity
    ///
    /// One probe of the root table per run on the path, a bisection where the path leaves a run, and the writes.
    pub fn find(&self, hashes: &[u64], matched: &mut [u32]) {
        self.tree.find(hashes, matched);
    }

    /// Notes that the endpoint now holds all blocks of the path `hashes` and has just used them, the head last.
    ///
    /// Of a path longer than the endpoint's capacity only the head that fits is held. Blocks beyond
    /// the capacity, and beyond the bound in bytes, go as described in the module's documentation.
    ///
    /// # Complexity
    ///
    /// Proportional to the runs on the path and to the blocks that no endpoint held before.
    pub fn insert(&mut self, endpoint: u32, hashes: &[u64]) {
        self.insert_marked(endpoint, hashes, 0);
    }

    /// Inserts, and notes `mark` of every block of the path; the marks of one endpoint's inserts must ascend.
    pub(crate) fn insert_marked(&mut self, endpoint: u32, hashes: &[u64], mark: u32) {
        let longest = self.recency.lane(endpoint).capacity.min(i32::MAX as usize);
        let hashes = hashes.get(..longest).unwrap_or(hashes);
        if hashes.is_empty() {
            return;
        }
        self.store(hashes);
        while let Some(step) = self.path.pop() {
            self.use_run(endpoint, step, mark);
        }
        self.path.shrink_to(KEPT_PATH);
        self.evict_to_capacity(endpoint);
        self.evict_to_bound();
    }

    /// Forgets all blocks of an endpoint that has restarted or is gone; its capacity stays.
    ///
    /// # Complexity
    ///
    /// Proportional to the runs that it held.
    pub fn clear(&mut self, endpoint: u32) {
        while self.forget_oldest(endpoint, usize::MAX) > 0 {}
    }

    /// Forgets the blocks of an endpoint whose last mark is `mark` or came before it.
    pub(crate) fn forget_marked(&mut self, endpoint: u32, mark: u32) {
        while let Some(oldest) = self.recency.get(self.recency.lane(endpoint).oldest)
            && mark.wrapping_sub(oldest.mark) < u32::MAX / 2
        {
            self.forget_oldest(endpoint, usize::MAX);
        }
    }

    /// Number of blocks that the endpoint holds.
    #[must_use]
    pub fn block_count(&self, endpoint: u32) -> usize {
        self.recency.lane(endpoint).blocks
    }

    /// How much of the index is in use.
    #[must_use]
    pub fn stats(&self) -> PrefixIndexStats {
        PrefixIndexStats {
            unique_blocks: self.tree.unique_blocks,
            runs: self.tree.runs.len(),
            holdings: self.tree.holdings,
            segments: self.recency.len(),
            bytes: self.bytes(),
        }
    }
}

/// Inserting.
impl PrefixIndex {
    /// Makes sure that runs for the whole path exist, and leaves them in `self.path`.
    fn store(&mut self, hashes: &[u64]) {
        let mut path = std::mem::take(&mut self.path);
        path.extend(
            self.tree.walk(hashes).map(|found| PathStep { run: found.root.run, common: found.common }),
        );
        let known: usize = path.iter().map(|step| step.common as usize).sum();
        let rest = hashes.get(known..).unwrap_or_default();
        if !rest.is_empty() && !self.extend_last(&mut path, rest) {
            path.push(PathStep { run: self.tree.add_run(rest), common: rest.len() as u32 });
        }
        self.path = path;
    }

    /// Continues the path in the run where it ends, if it ends where that run ends.
    fn extend_last(&mut self, path: &mut [PathStep], rest: &[u64]) -> bool {
        let Some(step) = path.last_mut() else { return false };
        if self.tree.length(step.run) != Some(step.common) {
            return false;
        }
        self.tree.extend(step.run, rest);
        step.common += rest.len() as u32;
        true
    }

    /// Makes the run's blocks on the path held, and the endpoint's most recent.
    fn use_run(&mut self, endpoint: u32, PathStep { run, common }: PathStep, mark: u32) {
        let Some(before) = self.holder(run, endpoint) else {
            let segment = self.recency.push(endpoint, run, common, recency::NONE, mark);
            self.recency.count(endpoint, common as isize);
            self.tree.holdings += 1;
            return self.set_holder(run, Holder { endpoint, length: common, segment });
        };
        let length = before.length.max(common);
        let Some((head, end)) = self.merge_segments(run, before, common) else { return };
        if end > common {
            // The head's end stays behind as the less recent part, and a new head is split off.
            if let Some(segment) = self.recency.get_mut(head) {
                segment.start = common;
            }
            let segment = self.recency.push(endpoint, run, common, head, mark);
            return self.set_holder(run, Holder { endpoint, length, segment });
        }
        if let Some(segment) = self.recency.get_mut(head) {
            segment.end = common;
            segment.mark = mark;
        }
        self.recency.promote(head);
        if length != before.length {
            self.recency.count(endpoint, length as isize - before.length as isize);
            self.set_holder(run, Holder { endpoint, length, segment: head });
        }
    }

    /// Drops the head segments that end before `common` into the next one; returns the head's id and end.
    fn merge_segments(&mut self, run: u32, holder: Holder, common: u32) -> Option<(u32, u32)> {
        loop {
            // Segments move when one is removed, so the head is looked up each time.
            let head = self.holder(run, holder.endpoint)?.segment;
            let segment = self.recency.get(head)?;
            if segment.end >= common || segment.end == holder.length {
                return Some((head, segment.end));
            }
            self.recency.get_mut(segment.deeper)?.start = 0;
            self.set_holder(run, Holder { segment: segment.deeper, ..holder });
            self.remove_segment(head);
        }
    }

    fn holder(&self, run: u32, endpoint: u32) -> Option<Holder> {
        self.tree.holder(run, endpoint)
    }

    fn set_holder(&mut self, run: u32, holder: Holder) {
        self.tree.set_holder(run, holder, self.recency.slots());
    }
}

/// Forgetting.
impl PrefixIndex {
    fn evict_to_capacity(&mut self, endpoint: u32) {
        loop {
            let lane = self.recency.lane(endpoint);
            if lane.blocks <= lane.capacity || self.forget_oldest(endpoint, lane.blocks - lane.capacity) == 0
            {
                return;
            }
        }
    }

    fn evict_to_bound(&mut self) {
        /// So many blocks are worth looking for the largest endpoint again.
        const BATCH: usize = 64;
        while self.bytes() > self.max_bytes
            && let Some(endpoint) = self.recency.largest()
        {
            let excess = (self.bytes() - self.max_bytes) / size_of::<u64>();
            self.forget_oldest(endpoint, excess.max(BATCH));
        }
    }

    /// Ends the holding of up to `limit` least recent blocks, at most one segment's; returns how many.
    fn forget_oldest(&mut self, endpoint: u32, limit: usize) -> usize {
        let id = self.recency.lane(endpoint).oldest;
        let Some(segment) = self.recency.get(id) else { return 0 };
        let forgotten = limit.min((segment.end - segment.start) as usize);
        let end = segment.end - forgotten as u32;
        self.recency.count(endpoint, -(forgotten as isize));
        if let Some(holder) = self.holder(segment.run, endpoint) {
            self.tree.shorten_share(segment.run, holder, end, self.recency.slots());
        }
        if end > segment.start {
            if let Some(segment) = self.recency.get_mut(id) {
                segment.end = end;
            }
        } else {
            self.remove_segment(id);
        }
        if self.tree.run(segment.run).is_some_and(|run| run.holders.count() == 0) {
            self.remove_run(segment.run);
        }
        forgotten
    }

    /// Removes a segment, and mends the chain of the one that takes its id.
    fn remove_segment(&mut self, id: u32) {
        if !self.recency.remove(id) {
            return;
        }
        let old_id = self.recency.len() as u32;
        let Some(moved) = self.recency.get(id) else { return };
        let Some(run) = self.tree.runs.get_mut(moved.run) else { return };
        let Some(holder) = run.holders.get(moved.endpoint) else { return };
        if holder.segment == old_id {
            run.holders.set(Holder { segment: id, ..holder }, self.recency.slots());
            return;
        }
        let mut at = holder.segment;
        while let Some(segment) = self.recency.get_mut(at)
            && segment.end < holder.length
        {
            if segment.deeper == old_id {
                segment.deeper = id;
                return;
            }
            at = segment.deeper;
        }
    }

    /// Removes a run that nobody holds, and tells all who know it where the run that takes its id is now.
    fn remove_run(&mut self, id: u32) {
        let Some(moved) = self.tree.remove_run(id) else { return };
        let recency = &mut self.recency;
        moved.holders.for_each(|holder| {
            let mut at = holder.segment;
            while let Some(segment) = recency.get_mut(at) {
                segment.run = id;
                if segment.end >= holder.length {
                    break;
                }
                at = segment.deeper;
            }
        });
    }

    fn bytes(&self) -> usize {
        self.tree.heap_bytes() + storage::heap_bytes(&self.path) + self.recency.heap_bytes()
    }
}
