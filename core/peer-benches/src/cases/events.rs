//! KV events for a path: as engines send them, and with their token ids already hashed.

use anyhow::Result;
use p3sched::kv_event::{BlocksRemoved, BlocksStored, EngineHash};
use p3sched::prefix_index::{EventIndex, StoredBlocks};
use p3sched::{Endpoint, KvEvent, Scheduler, SchedulerConfig};

const BLOCK_TOKENS: u32 = 16;

/// A scheduler with endpoints whose names are their numbers, without a bound of its index.
///
/// # Errors
///
/// Those of the scheduler.
pub fn scheduler(endpoints: u32) -> Result<Scheduler> {
    let mut config = SchedulerConfig::default();
    config.index_max_bytes = usize::MAX;
    let scheduler = Scheduler::new(config)?;
    for endpoint in 0..endpoints {
        scheduler.add_endpoint(Endpoint::new(endpoint.to_string().as_str()))?;
    }
    Ok(scheduler)
}

/// The engine's names for the blocks of a path.
pub fn names(path: &[u64]) -> Vec<u64> {
    path.iter().map(|&hash| engine_hash(hash).0).collect()
}

/// Blocks that an engine has stored, as the index takes them; it names their parent, as engines do.
pub struct Stored {
    parent: Option<u64>,
    hashes: Vec<u64>,
    names: Vec<u64>,
}

impl Stored {
    /// An engine held the first `known` blocks of a path and now holds all of it.
    pub fn new(path: &[u64], known: usize) -> Self {
        let parent = path[..known].last().map(|&hash| engine_hash(hash).0);
        Self { parent, hashes: path[known..].to_vec(), names: names(&path[known..]) }
    }

    pub fn apply(&self, index: &mut EventIndex, endpoint: u32) {
        let parent = self.parent.and_then(|name| index.position(endpoint, name));
        index.store(endpoint, &StoredBlocks { parent, hashes: &self.hashes, names: &self.names, stride: 1 });
    }
}

/// An engine held the first `known` blocks of a path and now holds all of it.
pub fn stored(path: &[u64], known: usize) -> KvEvent {
    KvEvent::Stored(BlocksStored {
        block_hashes: path[known..].iter().map(|&hash| engine_hash(hash)).collect(),
        parent: path[..known].last().map(|&hash| engine_hash(hash)),
        token_ids: tokens(&path[known..]),
        block_size: BLOCK_TOKENS,
        ..BlocksStored::default()
    })
}

/// An engine has freed these blocks.
pub fn removed_blocks<'a>(blocks: impl Iterator<Item = &'a u64>) -> KvEvent {
    let block_hashes = blocks.map(|&hash| engine_hash(hash)).collect();
    KvEvent::Removed(BlocksRemoved { block_hashes, ..BlocksRemoved::default() })
}

/// Token ids of a path's blocks.
pub fn tokens(path: &[u64]) -> Vec<u32> {
    path.iter().flat_map(|hash| (0..BLOCK_TOKENS).map(move |token| (hash >> token) as u32)).collect()
}

fn engine_hash(hash: u64) -> EngineHash {
    EngineHash(hash ^ 0x5555_5555_5555_5555)
}
