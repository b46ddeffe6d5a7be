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

/// An endpoint held the first `known` blocks of a path and now holds all of it.
pub fn store(index: &mut EventIndex, endpoint: u32, path: &[u64], names: &[u64], known: usize) {
    let parent = names[..known].last().and_then(|&name| index.position(endpoint, name));
    let blocks = StoredBlocks { parent, hashes: &path[known..], names: &names[known..], stride: 1 };
    index.store(endpoint, &blocks);
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
