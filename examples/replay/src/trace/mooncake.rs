//! Mooncake's traces: JSON lines with `timestamp` (ms), `input_length`, `output_length` and `hash_ids`, one for every
//! 512 tokens of the prompt.
//!
//! Source: `FAST25-release/traces/conversation_trace.jsonl` and its neighbours in
//! [kvcache-ai/Mooncake](https://github.com/kvcache-ai/Mooncake) (Apache-2.0). The published times of the conversation
//! trace are rounded to 3 s, so that a dozen requests share each.

use serde::Deserialize;

use super::{Trace, TraceRequest, json_lines};
use crate::Error;

/// Tokens that one of the `hash_ids` stands for.
pub const BLOCK_TOKENS: u32 = 512;

const MILLISECOND: u64 = 1_000_000;

#[derive(Deserialize)]
struct Line {
    timestamp: u64,
    input_length: u32,
    output_length: u32,
    hash_ids: Vec<u64>,
}

pub(super) fn parse(text: &str) -> Result<Trace, Error> {
    let mut trace = Trace::new("mooncake", BLOCK_TOKENS);
    for line in json_lines::<Line>(text) {
        let (_, line) = line?;
        // The last id of a prompt stands for a block that is not full, and that no engine keeps.
        let full = (line.input_length / BLOCK_TOKENS) as usize;
        let chain = trace.add_chain(line.hash_ids.into_iter().take(full));
        trace.push(TraceRequest {
            prompt_tokens: line.input_length.max(1),
            output_tokens: line.output_length.max(1),
            ..TraceRequest::new(line.timestamp * MILLISECOND, chain)
        });
    }
    trace.sort();
    trace.resolution = resolution(&trace);
    Ok(trace)
}

/// The smallest distance of two different arrivals, to the millisecond above: times that lie 2999 and 3000 ms apart
/// were rounded to 3 s.
fn resolution(trace: &Trace) -> u64 {
    let times = trace.requests.iter().map(|request| request.arrival);
    let gaps = times.clone().zip(times.skip(1)).map(|(a, b)| b - a).filter(|&gap| gap > 0);
    gaps.min().map_or(1, |gap| if gap > MILLISECOND { gap + MILLISECOND } else { gap })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_full_blocks_are_shared() {
        let text = concat!(
            "{\"timestamp\": 0, \"input_length\": 1100, \"output_length\": 7, \"hash_ids\": [0, 1, 2]}\n",
            "{\"timestamp\": 3000, \"input_length\": 1024, \"output_length\": 0, \"hash_ids\": [0, 3]}\n",
        );
        let trace = parse(text).unwrap();
        let [first, second] = [0, 1].map(|at: usize| trace.blocks_of(&trace.requests[at]));
        assert_eq!((first.len(), second.len()), (2, 2));
        assert!(first[0] == second[0] && first[1] != second[1]);
        assert_eq!((trace.requests[1].arrival, trace.requests[1].output_tokens), (3_000_000_000, 1));
        assert_eq!(trace.resolution, 3_001_000_000);
    }
}
