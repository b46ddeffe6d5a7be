//! The full check of every invariant, for tests and fuzzing.

use std::collections::HashSet;

use super::holders::{Holder, Holders};
use super::recency::NONE;
use super::root::{RootEntry, RootHolders};
use super::{PrefixIndex, Run};

impl PrefixIndex {
    /// Checks every invariant of the structure; the error says which one does not hold.
    ///
    /// # Errors
    ///
    /// A sentence about the first violation found.
    ///
    /// # Complexity
    ///
    /// Visits everything several times: for tests only.
    #[doc(hidden)]
    pub fn validate(&self) -> Result<(), String> {
        self.validate_runs()?;
        let segments = (0..self.recency.slots())
            .map(|endpoint| self.validate_lane(endpoint as u32))
            .sum::<Result<usize, _>>()?;
        ensure(segments == self.recency.len(), || format!("segments outside of all lists: {segments}"))
    }

    fn validate_runs(&self) -> Result<(), String> {
        let mut hashes = HashSet::new();
        let (mut bytes, mut holdings, mut segments) = (0, 0, 0);
        for (id, run) in (0..).zip(self.tree.runs.iter()) {
            bytes += run.holders.heap_bytes();
            holdings += run.holders.count();
            let root = self.tree.root(id).ok_or_else(|| format!("run {id} is not in the root table"))?;
            bytes += root.heap_bytes();
            ensure(root.hashes().iter().all(|&hash| hashes.insert(hash)), || {
                format!("run {id} repeats a hash")
            })?;
            ensure(root.length() > 0 && run.holders.longest() == root.length(), || {
                format!("run {id} has {} blocks, its longest share {}", root.length(), run.holders.longest())
            })?;
            validate_root(id, root, run)?;
            ensure(!matches!(&run.holders, Holders::Dense(dense) if !dense.is_consistent()), || {
                format!("run {id} has inconsistent holders: {:?}", run.holders)
            })?;
            let mut result = Ok(0);
            let mut visited = 0;
            run.holders.for_each(|holder| {
                visited += 1;
                if let Ok(count) = &mut result {
                    match self.validate_chain(id, holder) {
                        Ok(length) => *count += length,
                        Err(error) => result = Err(error),
                    }
                }
            });
            segments += result?;
            ensure(visited == run.holders.count(), || {
                format!("run {id} counts its holders wrongly: {visited}")
            })?;
        }
        ensure(self.tree.roots.len() == self.tree.runs.len(), || {
            format!("root entries: {}", self.tree.roots.len())
        })?;
        ensure(bytes == self.tree.run_bytes, || {
            format!("bytes of runs: {bytes}, counted: {}", self.tree.run_bytes)
        })?;
        ensure(holdings == self.tree.holdings, || {
            format!("holdings: {holdings}, counted: {}", self.tree.holdings)
        })?;
        ensure(hashes.len() == self.tree.unique_blocks, || format!("unique blocks: {}", hashes.len()))?;
        ensure(segments == self.recency.len(), || format!("segments in chains: {segments}"))
    }

    /// Checks the segments of one share from its head to its end; returns their number.
    fn validate_chain(&self, run: u32, holder: Holder) -> Result<usize, String> {
        let Holder { endpoint, length, segment } = holder;
        let (mut at, mut start, mut count) = (segment, 0, 0);
        while start < length {
            let Some(segment) = self.recency.get(at) else {
                return Err(format!("run {run}, endpoint {endpoint}: the chain breaks at segment {at}"));
            };
            ensure(
                (segment.run, segment.endpoint, segment.start) == (run, endpoint, start)
                    && segment.end > start,
                || format!("run {run}, endpoint {endpoint}: a foreign segment: {segment:?}"),
            )?;
            (start, at, count) = (segment.end, segment.deeper, count + 1);
        }
        ensure(start == length, || {
            format!("run {run}, endpoint {endpoint}: {length} blocks held, {start} in segments")
        })?;
        Ok(count)
    }

    /// Checks one endpoint's list from newest to oldest; returns the number of its segments.
    fn validate_lane(&self, endpoint: u32) -> Result<usize, String> {
        let lane = self.recency.lane(endpoint);
        let (mut at, mut newer, mut count, mut blocks) = (lane.newest, NONE, 0, 0);
        let mut heads = HashSet::new();
        while let Some(segment) = self.recency.get(at) {
            ensure(segment.endpoint == endpoint && segment.newer == newer, || {
                format!("endpoint {endpoint}: the list breaks at segment {at}: {segment:?}")
            })?;
            ensure(segment.start == 0 || heads.contains(&(segment.run, segment.start)), || {
                format!("endpoint {endpoint}: older than what it precedes: {segment:?}")
            })?;
            heads.insert((segment.run, segment.end));
            blocks += (segment.end - segment.start) as usize;
            count += 1;
            ensure(count <= self.recency.len(), || {
                format!("endpoint {endpoint}: the list runs in a circle")
            })?;
            (at, newer) = (segment.older, at);
        }
        ensure(lane.oldest == newer, || format!("endpoint {endpoint}: the list ends at {newer}"))?;
        ensure(blocks == lane.blocks, || {
            format!("endpoint {endpoint}: {blocks} blocks, counted: {}", lane.blocks)
        })?;
        ensure(blocks <= lane.capacity, || {
            format!("endpoint {endpoint}: {blocks} blocks exceed its capacity")
        })?;
        Ok(count)
    }
}

fn validate_root(id: u32, root: &RootEntry, run: &Run) -> Result<(), String> {
    let holders = run.holders.summary(root.length());
    ensure(root.run == id && root.holders() == holders && root.is_consistent(), || {
        format!("the root entry of run {id} is stale: {root:?}")
    })?;
    ensure((run.holders.count() == 1) == matches!(holders, RootHolders::One { .. }), || {
        format!("run {id} keeps one holder as if there were several: {holders:?}")
    })
}

fn ensure(holds: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(message()) }
}
