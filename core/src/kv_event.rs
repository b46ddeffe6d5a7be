//! What engines report about their KV caches: blocks stored, blocks removed, everything cleared.
//!
//! Engines publish these events in numbered batches, one stream per data-parallel rank. [`KvEventBatch::decode`] reads the
//! encoding that vLLM and SGLang use, [`Scheduler::apply_kv_batch`](crate::Scheduler::apply_kv_batch) applies a batch. An
//! endpoint that sends events is in *precise* mode for prompts given as token ids: the scheduler knows what its engine holds
//! instead of guessing it from its own picks, and evicts nothing by itself.
//!
//! * Blocks are hashed again from their token ids, so an engine's own block hashes ([`EngineHash`]) may be anything.
//! * An engine serves an adapter (LoRA) as a model of that name: blocks computed with an adapter are the prefix of
//!   requests whose `model` is the adapter's name. All others belong to the endpoint's model, see
//!   [`KvEventConfig`](crate::config::KvEventConfig).
//! * Prompts given as text cannot be compared with token ids. They stay in approximate mode on every endpoint.

mod decode;
pub(crate) mod precise;
mod reader;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

pub use precise::KvBatchOutcome;

/// What an engine calls a block: an opaque name, equal only to itself.
///
/// # Example
///
/// ```
/// use p3sched::kv_event::EngineHash;
///
/// assert_eq!(EngineHash::from(-1_i64), EngineHash::from(u64::MAX));
/// assert_eq!(EngineHash::from_bytes(&[1, 0]), EngineHash::from(256_u64));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EngineHash(pub u64);

impl EngineHash {
    /// The name of an engine that uses bytes: up to 8 as a big-endian number, more by their XXH3-64.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        if bytes.len() > size_of::<u64>() {
            return Self(xxh3_64(bytes));
        }
        Self(bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }
}

impl From<u64> for EngineHash {
    fn from(hash: u64) -> Self {
        Self(hash)
    }
}

impl From<i64> for EngineHash {
    fn from(hash: i64) -> Self {
        Self(hash.cast_unsigned())
    }
}

/// One change of an engine's KV cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", expecting = "a KV event with its `type`")]
#[non_exhaustive]
pub enum KvEvent {
    /// Blocks are in the cache now, or are still there.
    Stored(BlocksStored),
    /// Blocks are gone, and with them everything that continued them.
    Removed(BlocksRemoved),
    /// The cache is empty.
    Cleared,
}

/// Consecutive blocks of one prompt.
///
/// # Example
///
/// ```
/// use p3sched::kv_event::{BlocksStored, EngineHash, KvEvent};
///
/// let event = KvEvent::Stored(BlocksStored {
///     block_hashes: vec![EngineHash(11), EngineHash(12)],
///     token_ids: (0..32).collect(),
///     block_size: 16,
///     ..BlocksStored::default()
/// });
/// # assert!(matches!(event, KvEvent::Stored(_)));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BlocksStored {
    /// The engine's names for the blocks, first block first.
    pub block_hashes: Vec<EngineHash>,
    /// The block that these continue; `None` if they start a prompt.
    pub parent: Option<EngineHash>,
    /// Token ids of all blocks, `block_size` for each.
    pub token_ids: Vec<u32>,
    /// Tokens per block: a multiple of the scheduler's `block_size_tokens`.
    pub block_size: u32,
    /// Name of the adapter (LoRA) that the blocks were computed with.
    pub adapter: Option<String>,
    /// The request's cache salt; needed only where there is no `parent`.
    pub cache_salt: Option<String>,
    /// What identifies each block besides its tokens (images, say), as a hash; 0 for nothing. Empty if no block has any.
    pub media: Vec<u64>,
    /// Where the blocks are; everything but `None` and `GPU` is left out of account.
    pub medium: Option<String>,
    /// Group of layers, where an engine keeps several caches.
    pub group: Option<u32>,
    /// Kind of attention of that group; groups without full attention are left out of account.
    pub attention: Option<String>,
}

/// Blocks that an engine evicted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BlocksRemoved {
    /// The engine's names for the blocks; names that are not known are fine.
    pub block_hashes: Vec<EngineHash>,
    /// Where the blocks were; everything but `None` and `GPU` is left out of account.
    pub medium: Option<String>,
    /// Group of layers, where an engine keeps several caches.
    pub group: Option<u32>,
}

/// Events that an engine published together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a batch of KV events")]
pub struct KvEventBatch {
    /// Number of the batch in its stream: 0 for the first one after the engine started, then without gaps.
    pub sequence: u64,
    /// When the engine published it, in seconds of its own clock; 0 if unknown. Tells a restarted engine from a repetition.
    pub timestamp: f64,
    /// Data-parallel rank of the engine, 0 if there is only one.
    pub rank: u32,
    /// The events, in their order.
    pub events: Vec<KvEvent>,
}
