//! The block-level prefix cache of one engine, with vLLM's rules of sharing and eviction.

use lru::LruCache;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// A pool of equal blocks that running requests share by chained hash and that idle prefixes keep until evicted.
///
/// Blocks of a finished request are freed tail first, so that the head of a prefix, which more requests share,
/// outlives its tail.
#[derive(Debug)]
pub(crate) struct KvCache {
    capacity: usize,
    /// Hashed blocks in use, with the number of requests that hold each.
    active: HashMap<u64, u32>,
    /// Hashed blocks that nobody holds, in the order in which they will be evicted.
    idle: LruCache<u64, ()>,
    /// Blocks in use that have no hash: partial tails, blocks still to be generated, duplicates.
    private: usize,
}

/// The blocks of one running request; give it back with [`KvCache::release`].
#[derive(Debug)]
pub(crate) struct Allocation {
    /// One entry per block in prompt order; `None` is a private block.
    blocks: Vec<Option<u64>>,
    /// Leading blocks that were already in the cache.
    pub(crate) cached_blocks: usize,
}

impl KvCache {
    /// Makes an empty cache of `capacity` blocks.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, active: HashMap::new(), idle: LruCache::unbounded(), private: 0 }
    }

    /// Takes `total` blocks, of which the first carry the chained hashes `prompt`, and reuses at most
    /// `reusable` leading ones; `None` if running requests hold too many blocks.
    pub(crate) fn allocate(&mut self, prompt: &[u64], reusable: usize, total: usize) -> Option<Allocation> {
        let cached_blocks = self.matched(prompt).min(reusable);
        let shared = prompt.iter().take(cached_blocks).filter(|hash| self.active.contains_key(hash)).count();
        if self.in_use() + total - shared > self.capacity {
            return None;
        }
        let mut blocks = Vec::with_capacity(total);
        for (position, &hash) in prompt.iter().enumerate() {
            let own = position < cached_blocks || !self.contains(hash);
            blocks.push(own.then(|| self.hold(hash)));
        }
        blocks.resize(total, None);
        self.private += blocks.iter().filter(|block| block.is_none()).count();
        while self.in_use() + self.idle.len() > self.capacity {
            self.idle.pop_lru();
        }
        Some(Allocation { blocks, cached_blocks })
    }

    /// Gives the blocks of a request back; `completed` are the chained hashes of its prompt and answer, which stay
    /// in the cache until evicted.
    pub(crate) fn release(&mut self, allocation: &Allocation, completed: &[u64]) {
        for (position, block) in allocation.blocks.iter().enumerate().rev() {
            let Some(hash) = *block else {
                self.private -= 1;
                if let Some(&hash) = completed.get(position).filter(|hash| !self.contains(**hash)) {
                    self.idle.put(hash, ());
                }
                continue;
            };
            if let Entry::Occupied(mut holders) = self.active.entry(hash) {
                *holders.get_mut() -= 1;
                if *holders.get() == 0 {
                    holders.remove();
                    self.idle.put(hash, ());
                }
            }
        }
    }

    /// Leading blocks of a prompt that are in the cache.
    pub(crate) fn matched(&self, prompt: &[u64]) -> usize {
        prompt.iter().take_while(|hash| self.contains(**hash)).count()
    }

    /// Share of the blocks that running requests hold, in [0, 1]; idle prefixes do not count.
    pub(crate) fn usage(&self) -> f64 {
        if self.capacity == 0 { 0.0 } else { self.in_use() as f64 / self.capacity as f64 }
    }

    fn contains(&self, hash: u64) -> bool {
        self.active.contains_key(&hash) || self.idle.contains(&hash)
    }

    fn hold(&mut self, hash: u64) -> u64 {
        self.idle.pop(&hash);
        *self.active.entry(hash).or_insert(0) += 1;
        hash
    }

    fn in_use(&self) -> usize {
        self.active.len() + self.private
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(cache: &mut KvCache, prompt: &[u64]) -> usize {
        let allocation = cache.allocate(prompt, prompt.len(), prompt.len()).unwrap();
        cache.release(&allocation, prompt);
        allocation.cached_blocks
    }

    #[test]
    fn a_second_request_reuses_the_common_prefix() {
        let mut cache = KvCache::new(8);
        assert_eq!(serve(&mut cache, &[1, 2, 3]), 0);
        assert_eq!(serve(&mut cache, &[1, 2, 4]), 2);
        assert_eq!(serve(&mut cache, &[9, 2, 3]), 0, "a match starts at the first block");
    }

    #[test]
    fn the_tail_is_evicted_before_the_head() {
        let mut cache = KvCache::new(4);
        serve(&mut cache, &[1, 2, 3]);
        serve(&mut cache, &[7, 8]);
        assert_eq!(cache.matched(&[1, 2, 3]), 2);
        assert_eq!(cache.matched(&[7, 8]), 2);
    }

    #[test]
    fn a_prefix_in_use_is_shared_and_never_evicted() {
        let mut cache = KvCache::new(4);
        let first = cache.allocate(&[1, 2], 2, 3).unwrap();
        assert!(cache.allocate(&[5, 6], 2, 2).is_none(), "one block is free, two are asked for");
        let second = cache.allocate(&[1, 2], 2, 3).unwrap();
        assert_eq!(second.cached_blocks, 2);
        assert!((cache.usage() - 1.0).abs() < f64::EPSILON, "two shared and two private blocks");
        cache.release(&first, &[1, 2]);
        cache.release(&second, &[1, 2]);
        assert!(cache.usage().abs() < f64::EPSILON);
        assert_eq!(cache.matched(&[1, 2]), 2);
    }

    #[test]
    fn the_last_block_is_computed_even_if_it_is_cached() {
        let mut cache = KvCache::new(8);
        serve(&mut cache, &[1, 2]);
        let allocation = cache.allocate(&[1, 2], 1, 2).unwrap();
        assert_eq!(allocation.cached_blocks, 1);
        cache.release(&allocation, &[1, 2]);
        assert_eq!(cache.matched(&[1, 2]), 2);
        assert_eq!(cache.in_use(), 0);
    }

    #[test]
    fn the_answer_of_a_request_is_a_prefix_of_the_next_turn() {
        let mut cache = KvCache::new(8);
        let allocation = cache.allocate(&[1], 1, 3).unwrap();
        cache.release(&allocation, &[1, 2]);
        assert_eq!(cache.matched(&[1, 2, 3]), 2);
    }
}
