//! Any bytes, with a true header and checksum, as a snapshot: restored or refused, and the scheduler goes on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p3sched::{Endpoint, Request, Scheduler, SchedulerConfig};
use xxhash_rust::xxh3::xxh3_64;

fuzz_target!(|content: &[u8]| {
    let scheduler = Scheduler::new(SchedulerConfig::default()).unwrap();
    scheduler.add_endpoint(Endpoint::new("a")).unwrap();
    let mut bytes = b"p3sched\0".to_vec();
    for number in [1_u32, 16, 4] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(content);
    bytes.extend(xxh3_64(&bytes).to_le_bytes());
    let _ = scheduler.restore(&bytes);
    for name in ["b", "c"] {
        scheduler.add_endpoint(Endpoint::new(name)).unwrap();
    }
    for prompt in 0..4_u8 {
        scheduler.pick(&Request::from_text("m", vec![prompt; 1_000]), 0).unwrap();
    }
    let again = scheduler.snapshot();
    scheduler.restore(&again).unwrap();
});
