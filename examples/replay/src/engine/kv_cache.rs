//! The KV blocks of one engine, shared and evicted as vLLM does it.
//!
//! A block is free or held by one or more running requests. Free blocks form a queue: new ones are taken from its
//! front, freed ones go to its end, a request's last block first, and keep what they hold until they are taken. So the
//! least recently used block goes first, and a prefix never without its head being there longest.
//!
//! Source: vLLM, `vllm/v1/core/block_pool.py` and `kv_cache_manager.py`.

use ahash::AHashMap;

/// A place that holds one block.
pub(super) type BlockId = u32;

const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Block {
    /// Chained hash of its content, if others can find it.
    hash: Option<u64>,
    /// How many running requests hold it.
    holders: u32,
    /// Neighbours in the queue of free blocks.
    before: u32,
    after: u32,
}

/// All blocks of an engine.
#[derive(Debug, Clone)]
pub(super) struct KvCache {
    blocks: Vec<Block>,
    by_hash: AHashMap<u64, BlockId>,
    first_free: u32,
    last_free: u32,
    free: usize,
}

impl KvCache {
    pub(super) fn new(capacity: usize) -> Self {
        let mut cache = Self {
            blocks: vec![Block { hash: None, holders: 0, before: NONE, after: NONE }; capacity],
            by_hash: AHashMap::new(),
            first_free: NONE,
            last_free: NONE,
            free: 0,
        };
        (0..capacity as u32).for_each(|id| cache.enqueue(id));
        cache
    }

    /// Blocks that no running request holds.
    pub(super) fn free(&self) -> usize {
        self.free
    }

    /// Share of the blocks that running requests hold, in [0, 1].
    pub(super) fn usage(&self) -> f64 {
        if self.blocks.is_empty() {
            return 0.0;
        }
        (self.blocks.len() - self.free) as f64 / self.blocks.len() as f64
    }

    /// Leading blocks of a prompt that are here, and how many of them are free.
    pub(super) fn find(&self, hashes: impl Iterator<Item = u64>) -> (usize, usize) {
        let found = hashes.map_while(|hash| self.by_hash.get(&hash));
        found.fold((0, 0), |(count, free), &id| (count + 1, free + usize::from(self.is_free(id))))
    }

    /// Holds the blocks of these hashes, up to the first that is not here.
    pub(super) fn hold_found(&mut self, hashes: impl Iterator<Item = u64>, held: &mut Vec<BlockId>) {
        for hash in hashes {
            let Some(&id) = self.by_hash.get(&hash) else { return };
            if self.is_free(id) {
                self.dequeue(id);
            }
            if let Some(block) = self.blocks.get_mut(id as usize) {
                block.holders += 1;
            }
            held.push(id);
        }
    }

    /// Takes the block that was free for longest and forgets what it held; with a hash others can find it from now on.
    pub(super) fn take(&mut self, hash: Option<u64>, held: &mut Vec<BlockId>) {
        let id = self.first_free;
        if id == NONE {
            return;
        }
        self.dequeue(id);
        let Some(block) = self.blocks.get_mut(id as usize) else { return };
        let forgotten = block.hash.take();
        block.holders = 1;
        if let Some(forgotten) = forgotten {
            self.by_hash.remove(&forgotten);
        }
        held.push(id);
        if let Some(hash) = hash {
            self.name(id, hash);
        }
    }

    /// Makes a block that was filled findable, unless another one of the same content is.
    pub(super) fn name(&mut self, id: BlockId, hash: u64) {
        let Some(block) = self.blocks.get_mut(id as usize) else { return };
        if block.hash.is_none() && !self.by_hash.contains_key(&hash) {
            block.hash = Some(hash);
            self.by_hash.insert(hash, id);
        }
    }

    /// Frees a request's blocks, the last one first.
    pub(super) fn release(&mut self, held: &mut Vec<BlockId>) {
        while let Some(id) = held.pop() {
            let Some(block) = self.blocks.get_mut(id as usize) else { continue };
            block.holders -= 1;
            if block.holders == 0 {
                self.enqueue(id);
            }
        }
    }

    fn is_free(&self, id: BlockId) -> bool {
        self.blocks.get(id as usize).is_some_and(|block| block.holders == 0)
    }

    /// Appends a block to the queue of free ones.
    fn enqueue(&mut self, id: BlockId) {
        let last = self.last_free;
        if let Some(block) = self.blocks.get_mut(id as usize) {
            (block.before, block.after) = (last, NONE);
        }
        self.link(last, id);
        self.last_free = id;
        self.free += 1;
    }

    /// Takes a block out of the queue of free ones.
    fn dequeue(&mut self, id: BlockId) {
        let Some(&Block { before, after, .. }) = self.blocks.get(id as usize) else { return };
        self.link(before, after);
        match self.blocks.get_mut(after as usize) {
            Some(block) => block.before = before,
            None => self.last_free = before,
        }
        self.free -= 1;
    }

    /// Makes `after` follow `before`, or come first.
    fn link(&mut self, before: u32, after: u32) {
        match self.blocks.get_mut(before as usize) {
            Some(block) => block.after = after,
            None => self.first_free = after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(cache: &mut KvCache, prompt: &[u64]) -> usize {
        let mut held = Vec::new();
        cache.hold_found(prompt.iter().copied(), &mut held);
        let found = held.len();
        for &hash in &prompt[found..] {
            cache.take(Some(hash), &mut held);
        }
        cache.release(&mut held);
        found
    }

    fn found(cache: &KvCache, prompt: &[u64]) -> usize {
        cache.find(prompt.iter().copied()).0
    }

    #[test]
    fn the_least_recently_used_tail_goes_first() {
        let mut cache = KvCache::new(4);
        assert_eq!(serve(&mut cache, &[1, 2, 3]), 0);
        assert_eq!(serve(&mut cache, &[7, 8]), 0);
        // The fourth block was never used, the fifth takes the place of the tail of the first prompt.
        assert_eq!((found(&cache, &[1, 2, 3]), found(&cache, &[7, 8])), (2, 2));
        assert_eq!(serve(&mut cache, &[1, 2, 3]), 2);
        assert_eq!((found(&cache, &[1, 2, 3]), found(&cache, &[7, 8])), (3, 1));
    }

    #[test]
    fn held_blocks_are_shared_and_stay() {
        let mut cache = KvCache::new(3);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        cache.take(Some(1), &mut first);
        cache.hold_found([1, 2].into_iter(), &mut second);
        assert_eq!((second.len(), cache.free()), (1, 2));
        cache.release(&mut first);
        assert_eq!(cache.free(), 2, "the other request still holds it");
        cache.take(None, &mut second);
        cache.take(None, &mut second);
        assert_eq!((cache.free(), cache.usage()), (0, 1.0));
        cache.take(None, &mut second);
        assert_eq!(second.len(), 3, "nothing is left to take");
        cache.release(&mut second);
        assert_eq!((cache.free(), found(&cache, &[1])), (3, 1));
    }

    #[test]
    fn the_same_content_is_found_once() {
        let mut cache = KvCache::new(2);
        let mut held = Vec::new();
        cache.take(Some(5), &mut held);
        cache.take(Some(5), &mut held);
        cache.release(&mut held);
        assert_eq!(found(&cache, &[5]), 1);
        cache.take(Some(6), &mut held);
        assert_eq!(found(&cache, &[5]), 1, "the copy that nobody could find went first");
    }
}
