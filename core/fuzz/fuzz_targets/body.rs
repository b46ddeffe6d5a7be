//! Any bytes as the body of any path: read or refused, and what was read can be picked for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p3sched::{Endpoint, Scheduler, SchedulerConfig, openai};

const PATHS: [&str; 7] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/embeddings",
    "/inference/v1/generate",
    "/generate",
];

fuzz_target!(|input: (u8, &[u8])| {
    let (path, text) = input;
    let Ok(body) = openai::scan(PATHS[usize::from(path) % PATHS.len()], text) else { return };
    if let Some(span) = body.model_span {
        assert!(text[span].starts_with(b"\""));
    }
    let scheduler = Scheduler::new(SchedulerConfig::default()).unwrap();
    scheduler.add_endpoint(Endpoint::new("a")).unwrap();
    scheduler.pick(&body.request, 0).unwrap();
});
