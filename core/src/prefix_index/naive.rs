//! The oracle: what the prefix index must answer, written so that it cannot be wrong. Compiled for tests only.

use std::collections::HashMap;

/// Per endpoint, every block with when it was used last and how deep it is.
#[derive(Debug, Default)]
pub(crate) struct NaivePrefixIndex {
    endpoints: Vec<NaiveEndpoint>,
    time: u64,
}

#[derive(Debug, Default)]
struct NaiveEndpoint {
    capacity: usize,
    blocks: HashMap<u64, LastUse>,
}

#[derive(Clone, Copy, Debug)]
struct LastUse {
    time: u64,
    depth: usize,
}

impl NaivePrefixIndex {
    pub(crate) fn set_capacity(&mut self, endpoint: u32, blocks: usize) {
        let slot = endpoint as usize;
        if slot >= self.endpoints.len() {
            self.endpoints.resize_with(slot + 1, NaiveEndpoint::default);
        }
        if let Some(endpoint) = self.endpoints.get_mut(slot) {
            endpoint.capacity = blocks;
            endpoint.evict();
        }
    }

    pub(crate) fn find(&self, hashes: &[u64], matched: &mut [u32]) {
        for (slot, matched) in matched.iter_mut().enumerate() {
            *matched = self.endpoints.get(slot).map_or(0, |endpoint| {
                hashes.iter().take_while(|hash| endpoint.blocks.contains_key(hash)).count() as u32
            });
        }
    }

    pub(crate) fn insert(&mut self, endpoint: u32, hashes: &[u64]) {
        let Some(endpoint) = self.endpoints.get_mut(endpoint as usize) else { return };
        self.time += 1;
        for (depth, &hash) in hashes.iter().take(endpoint.capacity).enumerate() {
            endpoint.blocks.insert(hash, LastUse { time: self.time, depth });
        }
        endpoint.evict();
    }

    pub(crate) fn clear(&mut self, endpoint: u32) {
        if let Some(endpoint) = self.endpoints.get_mut(endpoint as usize) {
            endpoint.blocks.clear();
        }
    }

    pub(crate) fn block_count(&self, endpoint: u32) -> usize {
        self.endpoints.get(endpoint as usize).map_or(0, |endpoint| endpoint.blocks.len())
    }

    /// Number of different blocks that any endpoint holds.
    pub(crate) fn unique_blocks(&self) -> usize {
        let hashes = self.endpoints.iter().flat_map(|endpoint| endpoint.blocks.keys());
        hashes.collect::<std::collections::HashSet<_>>().len()
    }
}

impl NaiveEndpoint {
    /// Least recently used first, and of those used together the deepest first.
    fn evict(&mut self) {
        while self.blocks.len() > self.capacity {
            let least = self.blocks.iter().min_by_key(|(_, last)| (last.time, std::cmp::Reverse(last.depth)));
            let Some(hash) = least.map(|(&hash, _)| hash) else { return };
            self.blocks.remove(&hash);
        }
    }
}
