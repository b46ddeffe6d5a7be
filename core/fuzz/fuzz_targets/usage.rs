//! Any answer in chunks of any size: what is read of it depends on the answer alone.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p3sched::usage::UsageScanner;

fuzz_target!(|input: (Vec<u8>, &[u8])| {
    let (lengths, answer) = input;
    let mut whole = UsageScanner::new();
    whole.push(answer);

    let mut chunked = UsageScanner::new();
    let mut rest = answer;
    for length in lengths {
        let (chunk, after) = rest.split_at(usize::from(length).min(rest.len()));
        chunked.push(chunk);
        rest = after;
    }
    chunked.push(rest);
    assert_eq!(chunked.finish(), whole.finish());
});
