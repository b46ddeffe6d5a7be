//! NVIDIA Dynamo's router, crate `dynamo-kv-router`.

use std::collections::VecDeque;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

use anyhow::Result;
use dynamo_kv_router::SyncIndexer;
use dynamo_kv_router::indexer::WorkerTask;
use dynamo_kv_router::protocols::{
    ExternalSequenceBlockHash, KvCacheEvent, KvCacheEventData, KvCacheRemoveData, KvCacheStoreData,
    KvCacheStoredBlockData, LocalBlockHash, OverlapScores, RouterEvent, compute_seq_hash_for_block,
};
use tokio::sync::oneshot;

/// The blocks of a path, as a query names them.
pub fn query(path: &[u64]) -> Vec<LocalBlockHash> {
    path.iter().map(|&hash| LocalBlockHash(hash)).collect()
}

/// The event of an engine that held the first `known` blocks of a path and now holds all of it.
pub fn stored(endpoint: u32, path: &[u64], known: usize) -> RouterEvent {
    let engine_hashes = engine_hashes(path);
    let block = |(&hash, &block_hash): (&u64, &ExternalSequenceBlockHash)| KvCacheStoredBlockData {
        block_hash,
        tokens_hash: LocalBlockHash(hash),
        mm_extra_info: None,
    };
    event(
        endpoint,
        KvCacheEventData::Stored(KvCacheStoreData {
            parent_hash: engine_hashes[..known].last().copied(),
            start_position: None,
            blocks: path[known..].iter().zip(&engine_hashes[known..]).map(block).collect(),
        }),
    )
}

/// The event of an engine that has freed some blocks of a path, the deepest first, as engines do.
pub fn removed(endpoint: u32, path: &[u64], blocks: Range<usize>) -> RouterEvent {
    removed_blocks(endpoint, engine_hashes(path)[blocks].iter().rev().copied().collect())
}

/// The event of an engine that has freed these blocks.
pub fn removed_blocks(endpoint: u32, block_hashes: Vec<ExternalSequenceBlockHash>) -> RouterEvent {
    event(endpoint, KvCacheEventData::Removed(KvCacheRemoveData { block_hashes }))
}

/// Depth per endpoint, in the form that our index gives.
pub fn depths(scores: &OverlapScores, endpoints: usize) -> Vec<u32> {
    let mut depths = vec![0; endpoints];
    for (worker, &score) in &scores.scores {
        depths[worker.worker_id as usize] = score;
    }
    depths
}

/// Applies events on this thread.
///
/// # Errors
///
/// Those of the peer.
pub fn apply(index: &impl SyncIndexer, events: impl IntoIterator<Item = RouterEvent>) -> Result<()> {
    apply_rounds(index, vec![events.into_iter().collect()], |_| {})
}

/// Applies events on this thread and calls `between` with the number of each round that is done.
///
/// The peer takes events from a channel in a loop of its own. A flush at the end of a round wakes a waker, within
/// that loop, and there we get our turn: rounds of both sides alternate without a second thread.
///
/// # Errors
///
/// Those of the peer.
pub fn apply_rounds(
    index: &impl SyncIndexer,
    rounds: Vec<Vec<RouterEvent>>,
    between: impl FnMut(usize) + Send + 'static,
) -> Result<()> {
    let (sender, receiver) = flume::unbounded();
    let between: Between = Arc::new(Mutex::new(between));
    let mut flushes = VecDeque::new();
    for (round, events) in rounds.into_iter().enumerate() {
        for event in events {
            sender.send(WorkerTask::Event(event))?;
        }
        let (done, mut flushed) = oneshot::channel();
        let waker = Waker::from(Arc::new(Turn { round, between: Arc::clone(&between) }));
        let is_ready = Pin::new(&mut flushed).poll(&mut Context::from_waker(&waker)).is_ready();
        anyhow::ensure!(!is_ready, "nothing was flushed yet");
        sender.send(WorkerTask::Flush(done))?;
        flushes.push_back(flushed);
    }
    sender.send(WorkerTask::Terminate)?;
    index.worker(receiver, None)
}

type Between = Arc<Mutex<dyn FnMut(usize) + Send>>;

struct Turn {
    round: usize,
    between: Between,
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        (self.between.lock().unwrap_or_else(PoisonError::into_inner))(self.round);
    }
}

fn event(endpoint: u32, data: KvCacheEventData) -> RouterEvent {
    RouterEvent::new(u64::from(endpoint), KvCacheEvent { event_id: 0, data, dp_rank: 0 })
}

/// Names of the blocks as the positional index expects them: chained by the peer's own rule.
pub fn engine_hashes(path: &[u64]) -> Vec<ExternalSequenceBlockHash> {
    compute_seq_hash_for_block(&query(path)).into_iter().map(ExternalSequenceBlockHash).collect()
}
