//! The traces of Alibaba Cloud's Bailian: JSON lines with `chat_id`, `parent_chat_id` (-1 for a first turn),
//! `timestamp` (s), `input_length`, `output_length` and `hash_ids`, one for every 16 tokens of the prompt.
//!
//! Source: [qwen-bailian-usagetraces-anon](https://github.com/alibaba-edu/qwen-bailian-usagetraces-anon). Its ids stand
//! for the contents of a block alone; here they are chained, as a prefix cache needs it. In a closed loop a turn follows
//! its parent's answer after the time that lay between both arrivals, an upper bound of the time that the user thought.

use std::collections::HashMap;

use serde::Deserialize;

use super::{Trace, TraceRequest, json_lines, since};
use crate::Error;

/// Tokens that one of the `hash_ids` stands for.
pub const BLOCK_TOKENS: u32 = 16;

#[derive(Deserialize)]
struct Line {
    chat_id: i64,
    #[serde(default = "no_parent")]
    parent_chat_id: i64,
    timestamp: f64,
    input_length: u32,
    output_length: u32,
    #[serde(default)]
    hash_ids: Vec<u64>,
}

pub(super) fn parse(text: &str) -> Result<Trace, Error> {
    let mut trace = Trace::new("qwen-bailian", BLOCK_TOKENS);
    let mut places = HashMap::new();
    let mut first = None;
    for line in json_lines::<Line>(text) {
        let (_, line) = line?;
        let start = *first.get_or_insert(line.timestamp);
        let full = (line.input_length / BLOCK_TOKENS) as usize;
        let chain = trace.add_chain(line.hash_ids.into_iter().take(full));
        let previous: Option<u32> = places.get(&line.parent_chat_id).copied();
        let parent = previous.and_then(|at| trace.requests.get(at as usize)).copied();
        let arrival = since(start, line.timestamp);
        places.insert(line.chat_id, trace.requests.len() as u32);
        trace.push(TraceRequest {
            previous,
            think_time: parent.map_or(0, |parent| arrival.saturating_sub(parent.arrival)),
            prompt_tokens: line.input_length.max(1),
            output_tokens: line.output_length.max(1),
            session: parent.map_or(Some(line.chat_id as u64), |parent| parent.session),
            ..TraceRequest::new(arrival, chain)
        });
    }
    trace.sort();
    Ok(trace)
}

fn no_parent() -> i64 {
    -1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_belong_to_the_session_of_their_first_one() {
        let text = concat!(
            "{\"chat_id\": 7, \"parent_chat_id\": -1, \"timestamp\": 61.5, \"input_length\": 33, \"output_length\": 5, ",
            "\"type\": \"text\", \"turn\": 1, \"hash_ids\": [10, 11, 12]}\n",
            "{\"chat_id\": 9, \"parent_chat_id\": 7, \"timestamp\": 71.5, \"input_length\": 64, \"output_length\": 5, ",
            "\"type\": \"text\", \"turn\": 2, \"hash_ids\": [10, 11, 20, 21]}\n",
        );
        let trace = parse(text).unwrap();
        let [first, second] = [0, 1].map(|at: usize| trace.requests[at]);
        assert_eq!((first.arrival, second.arrival), (0, 10_000_000_000));
        assert_eq!((second.session, second.previous, second.think_time), (Some(7), Some(0), 10_000_000_000));
        assert_eq!(trace.blocks_of(&first), &trace.blocks_of(&second)[..2]);
    }
}
