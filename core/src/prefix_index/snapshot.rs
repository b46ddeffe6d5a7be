//! The prefix index as bytes: what each endpoint holds, in the order of use.

use super::holders::Holder;
use super::recency;
use super::root::RootEntry;
use super::tree::Tree;
use super::{PrefixIndex, Run};
use crate::Error;
use crate::snapshot::{Input, invalid};

/// Bytes of a segment: run, first block, one past the last block.
const SEGMENT_BYTES: usize = 3 * size_of::<u32>();

impl PrefixIndex {
    /// Appends runs, then the segments of each of these endpoints, least recent first.
    pub(crate) fn write_snapshot(&self, endpoints: &[u32], out: &mut Vec<u8>) {
        let runs = self.tree.runs.len();
        out.extend_from_slice(&(runs as u32).to_le_bytes());
        let lengths = out.len();
        out.resize(lengths + runs * size_of::<u32>(), 0);
        let root = |run: &Run| self.tree.roots.get(run.first());
        for (run, number) in self.tree.runs.iter().zip(0..) {
            let hashes = root(run).map_or(&[][..], RootEntry::hashes);
            let place = lengths + number * size_of::<u32>();
            if let Some(place) = out.get_mut(place..place + size_of::<u32>()) {
                place.copy_from_slice(&(hashes.len() as u32).to_le_bytes());
            }
            for hash in hashes {
                out.extend_from_slice(&hash.to_le_bytes());
            }
        }
        for &endpoint in endpoints {
            let start = out.len();
            out.extend(0_u32.to_le_bytes());
            let mut at = self.recency.lane(endpoint).oldest;
            while let Some(segment) = self.recency.get(at) {
                for number in [segment.run, segment.start, segment.end] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                at = segment.newer;
            }
            let count = (out.len() - start) / SEGMENT_BYTES;
            if let Some(place) = out.get_mut(start..start + size_of::<u32>()) {
                place.copy_from_slice(&(count as u32).to_le_bytes());
            }
        }
    }

    /// Reads what [`write_snapshot`](Self::write_snapshot) has written for so many endpoints, into these slots.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSnapshot`] when the parts do not fit together.
    pub(crate) fn read_snapshot(
        input: &mut Input<'_>,
        endpoints: &[u32],
        max_bytes: usize,
    ) -> Result<Self, Error> {
        let mut index = Self { tree: read_runs(input)?, ..Self::new(max_bytes) };
        // Where the share that is being read begins, by run.
        let mut starts = vec![UNSEEN; index.tree.runs.len()];
        for &endpoint in endpoints {
            index.recency.set_capacity(endpoint, usize::MAX);
        }
        for &endpoint in endpoints {
            index.read_segments(input, endpoint, &mut starts)?;
        }
        for id in 0..index.tree.runs.len() as u32 {
            let longest = index.tree.run(id).map(|run| run.holders.longest());
            (longest == index.tree.length(id))
                .then_some(())
                .ok_or_else(|| invalid("blocks that nobody holds"))?;
        }
        Ok(index)
    }

    fn read_segments(
        &mut self,
        input: &mut Input<'_>,
        endpoint: u32,
        starts: &mut [(u32, u32)],
    ) -> Result<(), Error> {
        let count = input.u32()? as usize;
        let segments = input.take(count.checked_mul(SEGMENT_BYTES).ok_or_else(|| invalid("a length"))?)?;
        let (segments, _) = segments.as_chunks::<SEGMENT_BYTES>();
        let first_id = self.recency.len() as u32;
        for segment in segments {
            let mut numbers = Input::new(segment);
            let (run, start, end) = (numbers.u32()?, numbers.u32()?, numbers.u32()?);
            let length = self.tree.length(run).unwrap_or(0);
            let state = starts.get_mut(run as usize).ok_or_else(|| invalid("a run that is not there"))?;
            let (deeper, share_start) = *state;
            let fits = if deeper == recency::NONE { end <= length } else { end == share_start };
            if !fits || start >= end {
                return Err(invalid("shares that are not contiguous"));
            }
            let id = self.recency.push(endpoint, run, end, deeper, 0);
            if let Some(segment) = self.recency.get_mut(id) {
                segment.start = start;
            }
            self.recency.count(endpoint, (end - start) as isize);
            *state = (id, start);
        }
        self.end_shares(endpoint, first_id, starts)
    }

    /// Makes the endpoint a holder of all runs of which segments from `first_id` on are known.
    fn end_shares(&mut self, endpoint: u32, first_id: u32, starts: &mut [(u32, u32)]) -> Result<(), Error> {
        let mut lengths = ahash::AHashMap::new();
        let slots = self.recency.slots();
        for id in first_id..self.recency.len() as u32 {
            let Some(segment) = self.recency.get(id) else { break };
            let Some(state) = starts.get_mut(segment.run as usize) else { break };
            // The first segment of a share in this order is its end.
            let length = *lengths.entry(segment.run).or_insert(segment.end);
            if state.0 != id {
                continue;
            }
            if segment.start != 0 {
                return Err(invalid("a share without its head"));
            }
            *state = UNSEEN;
            self.tree.holdings += 1;
            self.tree.set_holder(segment.run, Holder { endpoint, length, segment: id }, slots);
        }
        Ok(())
    }

    /// Gives all that endpoint `from` holds to endpoint `to`, which holds nothing.
    ///
    /// # Complexity
    ///
    /// Proportional to the runs that it holds.
    pub(crate) fn move_endpoint(&mut self, from: u32, to: u32) {
        self.recency.move_lane(from, to);
        let slots = self.recency.slots();
        let mut at = self.recency.lane(to).newest;
        while let Some(segment) = self.recency.get(at) {
            if segment.start == 0
                && let Some(holder) = self.tree.holder(segment.run, from)
            {
                self.tree.replace_holder(segment.run, from, Holder { endpoint: to, ..holder }, slots);
            }
            at = segment.older;
        }
    }
}

/// No segment of a run yet.
const UNSEEN: (u32, u32) = (recency::NONE, 0);

fn read_runs(input: &mut Input<'_>) -> Result<Tree, Error> {
    let count = input.u32()? as usize;
    let lengths = input.take(count.checked_mul(size_of::<u32>()).ok_or_else(|| invalid("a length"))?)?;
    let (lengths, _) = lengths.as_chunks::<4>();
    let mut tree = Tree::new();
    for length in lengths {
        let length = u32::from_le_bytes(*length) as usize;
        let bytes = input.take(length.checked_mul(size_of::<u64>()).ok_or_else(|| invalid("a length"))?)?;
        let (hashes, _) = bytes.as_chunks::<8>();
        let hashes: Vec<u64> = hashes.iter().map(|hash| u64::from_le_bytes(*hash)).collect();
        let first = *hashes.first().ok_or_else(|| invalid("an empty run"))?;
        if tree.roots.get(first).is_some() {
            return Err(invalid("a run that is there twice"));
        }
        tree.add_run_of(hashes);
    }
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ENDPOINTS: u32 = 12;

    fn path() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec((0..3_u64, 1..9_usize), 0..6).prop_map(|stretches| {
            let symbols =
                stretches.into_iter().flat_map(|(symbol, times)| std::iter::repeat_n(symbol, times));
            let chain = symbols.scan(7_u64, |hash, symbol| {
                *hash = (hash.rotate_left(23) ^ (symbol + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                Some(*hash)
            });
            chain.collect()
        })
    }

    fn inserts() -> impl Strategy<Value = Vec<(u32, Vec<u64>)>> {
        prop::collection::vec((0..ENDPOINTS, path()), 0..60)
    }

    fn new_index(capacity: usize) -> PrefixIndex {
        let mut index = PrefixIndex::new(usize::MAX);
        (0..ENDPOINTS).for_each(|endpoint| index.set_capacity(endpoint, capacity));
        index
    }

    fn found(index: &PrefixIndex, path: &[u64]) -> Vec<u32> {
        let mut matched = vec![0; ENDPOINTS as usize];
        index.find(path, &mut matched);
        matched
    }

    proptest! {
        #[test]
        fn a_restored_index_finds_and_evicts_as_before(before in inserts(), after in inserts(), capacity in 5..60_usize) {
            let mut index = new_index(capacity);
            before.iter().for_each(|(endpoint, path)| index.insert(*endpoint, path));
            let mut bytes = Vec::new();
            let all: Vec<u32> = (0..ENDPOINTS).collect();
            index.write_snapshot(&all, &mut bytes);
            let mut restored = PrefixIndex::read_snapshot(&mut Input::new(&bytes), &all, usize::MAX).unwrap();
            (0..ENDPOINTS).for_each(|endpoint| restored.set_capacity(endpoint, capacity));
            restored.validate().unwrap();
            for (endpoint, path) in before.iter().chain(&after) {
                prop_assert_eq!(found(&restored, path), found(&index, path));
                index.insert(*endpoint, path);
                restored.insert(*endpoint, path);
                prop_assert_eq!(restored.stats().unique_blocks, index.stats().unique_blocks);
            }
            restored.validate().unwrap();
        }

        #[test]
        fn a_moved_endpoint_keeps_everything(before in inserts(), from in 0..ENDPOINTS, capacity in 5..60_usize) {
            let mut index = new_index(capacity);
            before.iter().for_each(|(endpoint, path)| index.insert(*endpoint, path));
            let expected: Vec<_> = before.iter().map(|(_, path)| found(&index, path)[from as usize]).collect();
            index.move_endpoint(from, ENDPOINTS + 3);
            index.validate().unwrap();
            for ((_, path), expected) in before.iter().zip(expected) {
                let mut matched = [0; ENDPOINTS as usize + 4];
                index.find(path, &mut matched);
                prop_assert_eq!((matched[from as usize], matched[ENDPOINTS as usize + 3]), (0, expected));
            }
        }

        #[test]
        fn whatever_the_bytes_say_nothing_breaks(
            before in inserts(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut index = new_index(50);
            before.iter().for_each(|(endpoint, path)| index.insert(*endpoint, path));
            let mut bytes = Vec::new();
            let all: Vec<u32> = (0..ENDPOINTS).collect();
            index.write_snapshot(&all, &mut bytes);
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let mut input = Input::new(&bytes);
            if let Ok(mut index) = PrefixIndex::read_snapshot(&mut input, &all, usize::MAX) {
                for (endpoint, path) in &before {
                    found(&index, path);
                    index.insert(*endpoint, path);
                    index.clear(*endpoint);
                }
            }
        }
    }
}
