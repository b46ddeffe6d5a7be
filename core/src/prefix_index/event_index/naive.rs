//! The oracle: what the event index must answer, written so that it cannot be wrong.

use std::collections::{HashMap, HashSet};

/// Per lane, every engine block by the hash of its last block.
#[derive(Debug, Default)]
pub(super) struct NaiveEventIndex {
    lanes: HashMap<u32, HashMap<u64, EngineBlock>>,
}

#[derive(Debug)]
struct EngineBlock {
    name: u64,
    /// Last block of the engine block before this one.
    parent: Option<u64>,
    blocks: Vec<u64>,
}

impl NaiveEventIndex {
    /// False if the parent is not held.
    pub(super) fn store(&mut self, lane: u32, parent: Option<u64>, hashes: &[u64], names: &[u64]) -> bool {
        let mut parent = match parent {
            None => None,
            Some(name) => match self.block(lane, name) {
                Some(last) => Some(last),
                None => return false,
            },
        };
        let stride = hashes.len() / names.len().max(1);
        let held = self.lanes.entry(lane).or_default();
        for (blocks, &name) in hashes.chunks(stride.max(1)).zip(names) {
            let last = *blocks.last().unwrap();
            held.insert(last, EngineBlock { name, parent, blocks: blocks.to_vec() });
            parent = Some(last);
        }
        true
    }

    pub(super) fn remove(&mut self, lane: u32, name: u64) -> bool {
        let Some(last) = self.block(lane, name) else { return false };
        let held = self.lanes.entry(lane).or_default();
        let mut gone = vec![last];
        while let Some(last) = gone.pop() {
            held.remove(&last);
            gone.extend(held.iter().filter(|(_, block)| block.parent == Some(last)).map(|(&last, _)| last));
        }
        true
    }

    pub(super) fn clear(&mut self, lane: u32) {
        self.lanes.remove(&lane);
    }

    pub(super) fn matched(&self, lane: u32, hashes: &[u64]) -> u32 {
        let held = self.held(lane);
        hashes.iter().take_while(|hash| held.contains(hash)).count() as u32
    }

    pub(super) fn block_count(&self, lane: u32) -> usize {
        self.held(lane).len()
    }

    pub(super) fn unique_blocks(&self) -> usize {
        self.lanes.keys().flat_map(|&lane| self.held(lane)).collect::<HashSet<_>>().len()
    }

    fn held(&self, lane: u32) -> HashSet<u64> {
        let blocks = self.lanes.get(&lane).into_iter().flat_map(HashMap::values);
        blocks.flat_map(|block| block.blocks.iter().copied()).collect()
    }

    fn block(&self, lane: u32, name: u64) -> Option<u64> {
        let mut blocks = self.lanes.get(&lane)?.iter();
        blocks.find(|(_, block)| block.name == name).map(|(&last, _)| last)
    }
}
