//! Any bytes as the body of any path: read or refused, and what was read can be picked for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p3sched::{Endpoint, Request, Scheduler, SchedulerConfig};

const PATHS: [&str; 5] =
    ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"];

fuzz_target!(|input: (u8, &[u8])| {
    let (path, body) = input;
    let Ok(request) = Request::from_body(PATHS[usize::from(path) % PATHS.len()], body) else { return };
    let scheduler = Scheduler::new(SchedulerConfig::default()).unwrap();
    scheduler.add_endpoint(Endpoint::new("a")).unwrap();
    scheduler.pick(&request, 0).unwrap();
});
