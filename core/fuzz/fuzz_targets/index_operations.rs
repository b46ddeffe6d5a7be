//! Any order of operations on a scheduler: nothing panics, and every invariant holds after each of them.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use p3sched::kv_event::{BlocksRemoved, BlocksStored, EngineHash};
use p3sched::{Endpoint, KvEvent, KvEventBatch, Outcome, Request, Scheduler, SchedulerConfig};

#[derive(Arbitrary, Debug)]
enum Operation {
    Add(u8),
    Remove(u8),
    Pick {
        tokens: Vec<bool>,
        is_text: bool,
    },
    Complete(u8),
    Store {
        endpoint: u8,
        rank: bool,
        parent: Option<u8>,
        name: u8,
        tokens: Vec<bool>,
        wide: bool,
    },
    RemoveBlocks {
        endpoint: u8,
        rank: bool,
        names: Vec<u8>,
    },
    /// Removes blocks that a store has named one after the other, by one event.
    RemoveRow {
        endpoint: u8,
        rank: bool,
        first: u8,
        length: u8,
        is_reversed: bool,
    },
    Clear {
        endpoint: u8,
    },
    Batch {
        endpoint: u8,
        sequence: u8,
        timestamp: u8,
    },
    Resume {
        endpoint: u8,
        next: u8,
    },
    Restart,
    Pass(u8),
}

fn name(endpoint: u8) -> String {
    format!("endpoint-{}", endpoint % 6)
}

fn tokens(bits: &[bool]) -> Vec<u32> {
    bits.iter().map(|&bit| u32::from(bit)).collect()
}

fuzz_target!(|operations: Vec<Operation>| {
    let config = || {
        let mut config = SchedulerConfig::default();
        config.block_size_tokens = 1;
        config.bytes_per_token = 1;
        config.default_capacity_tokens = 20;
        config.index_max_bytes = 1 << 16;
        config
    };
    let mut scheduler = Scheduler::new(config()).unwrap();
    let mut now = 0;
    for operation in operations {
        match operation {
            Operation::Add(endpoint) => scheduler.add_endpoint(Endpoint::new(name(endpoint))).unwrap(),
            Operation::Remove(endpoint) => drop(scheduler.remove_endpoint(&name(endpoint))),
            Operation::Pick { tokens: bits, is_text } => {
                let text = bits.iter().map(|&bit| u8::from(bit)).collect::<Vec<_>>();
                let request = if is_text {
                    Request::from_text("", text)
                } else {
                    Request::from_tokens("", tokens(&bits))
                };
                let _ = scheduler.pick(&request, now);
            }
            Operation::Complete(id) => drop(scheduler.complete(id.into(), Outcome::success(), now)),
            Operation::Store { endpoint, rank, parent, name: first, tokens: bits, wide } => {
                let block_size = if wide { 2 } else { 1 };
                let blocks = bits.len() / block_size;
                let event = BlocksStored {
                    block_hashes: (0..blocks as u64).map(|n| EngineHash(u64::from(first) + n)).collect(),
                    parent: parent.map(|parent| EngineHash(parent.into())),
                    token_ids: tokens(&bits[..blocks * block_size]),
                    block_size: block_size as u32,
                    ..BlocksStored::default()
                };
                apply(&scheduler, endpoint, rank, KvEvent::Stored(event), now);
            }
            Operation::RemoveBlocks { endpoint, rank, names } => {
                let block_hashes = names.into_iter().map(|name| EngineHash(name.into())).collect();
                let event = BlocksRemoved { block_hashes, ..BlocksRemoved::default() };
                apply(&scheduler, endpoint, rank, KvEvent::Removed(event), now);
            }
            Operation::RemoveRow { endpoint, rank, first, length, is_reversed } => {
                let names = u64::from(first)..u64::from(first) + u64::from(length);
                let mut block_hashes: Vec<_> = names.map(EngineHash).collect();
                if is_reversed {
                    block_hashes.reverse();
                }
                let event = BlocksRemoved { block_hashes, ..BlocksRemoved::default() };
                apply(&scheduler, endpoint, rank, KvEvent::Removed(event), now);
            }
            Operation::Clear { endpoint } => apply(&scheduler, endpoint, false, KvEvent::Cleared, now),
            Operation::Batch { endpoint, sequence, timestamp } => {
                let batch = KvEventBatch {
                    sequence: sequence.into(),
                    timestamp: timestamp.into(),
                    ..KvEventBatch::default()
                };
                let _ = scheduler.apply_kv_batch(&name(endpoint), &batch, now);
            }
            Operation::Resume { endpoint, next } => {
                let _ = scheduler.resume_kv_events(&name(endpoint), 0, next.into());
            }
            Operation::Restart => {
                let restarted = Scheduler::new(config()).unwrap();
                restarted.restore(&scheduler.snapshot()).unwrap();
                scheduler = restarted;
            }
            Operation::Pass(seconds) => now += u64::from(seconds) * 1_000_000_000,
        }
        scheduler.validate().unwrap();
    }
});

/// Applies one event of a rank as the next batch of its stream.
fn apply(scheduler: &Scheduler, endpoint: u8, rank: bool, event: KvEvent, now: u64) {
    if !rank {
        let _ = scheduler.apply_kv_event(&name(endpoint), &event, now);
        return;
    }
    let batch = KvEventBatch { rank: 1, events: vec![event], ..KvEventBatch::default() };
    let _ = scheduler.resume_kv_events(&name(endpoint), 2, 0);
    let _ = scheduler.apply_kv_batch(&name(endpoint), &batch, now);
}
