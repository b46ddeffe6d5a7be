//! Any bytes as payloads of two engines: what is read is applied, and the index stays whole.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p3sched::{Endpoint, KvEventBatch, Scheduler, SchedulerConfig};

fuzz_target!(|payloads: Vec<(bool, u8, &[u8])>| {
    let mut config = SchedulerConfig::default();
    config.block_size_tokens = 1;
    let scheduler = Scheduler::new(config).unwrap();
    for name in ["a", "b"] {
        scheduler.add_endpoint(Endpoint::new(name)).unwrap();
    }
    for (second, sequence, payload) in payloads {
        let name = if second { "b" } else { "a" };
        let Ok(batch) = KvEventBatch::decode(payload, u64::from(sequence)) else { continue };
        let _ = scheduler.apply_kv_batch(name, &batch, 0);
        for event in &batch.events {
            let _ = scheduler.apply_kv_event(name, event, 0);
        }
        scheduler.validate().unwrap();
    }
});
