//! Your own traffic: JSON lines of OpenAI request bodies with timestamps.
//!
//! ```json
//! {"timestamp": 1730000000.25, "path": "/v1/chat/completions", "body": {"model": "llama", "messages": []}, "output_tokens": 212}
//! ```
//!
//! | field | meaning | default |
//! |---|---|---|
//! | `timestamp` | seconds since any fixed time, or a date and time (`2025-03-01T12:00:00Z`) | required |
//! | `body` | the request as the client sent it: chat, completions, responses, Anthropic messages | required |
//! | `path` | where it was sent | `/v1/chat/completions` |
//! | `output_tokens` | tokens of the answer | the body's `max_tokens`, else 128 |
//!
//! Prompts are cut into blocks of 16 tokens of 4 bytes and hashed as a [`Scheduler`](p3sched::Scheduler) does it; nothing
//! else of them is kept. A request with a session (`prompt_cache_key`, `user`) follows the one before it in a closed loop.

use std::borrow::Cow;
use std::collections::HashMap;

use p3sched::Request;
use p3sched::block_hash::BlockHasher;
use serde::Deserialize;
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64;

use super::{Trace, TraceRequest, azure, since};
use crate::Error;

const DEFAULT_OUTPUT_TOKENS: u32 = 128;

#[derive(Deserialize)]
struct Line<'a> {
    timestamp: Timestamp<'a>,
    #[serde(borrow)]
    body: &'a RawValue,
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    output_tokens: Option<u32>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Timestamp<'a> {
    Seconds(f64),
    Date(#[serde(borrow)] Cow<'a, str>),
}

/// What of a body is not part of the prompt.
#[derive(Deserialize)]
struct Limits {
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    max_output_tokens: Option<u32>,
}

pub(super) fn parse(text: &str) -> Result<Trace, Error> {
    let hasher = BlockHasher::default();
    let mut trace = Trace::new("openai-log", hasher.block_tokens());
    trace.models.clear();
    let mut sessions = HashMap::new();
    let mut hashes = Vec::new();
    let mut first = None;
    for (at, text) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let refused = |reason: String| Error::trace(at + 1, reason);
        let line: Line<'_> = serde_json::from_str(text).map_err(|error| refused(error.to_string()))?;
        let seconds = line.timestamp.seconds().map_err(&refused)?;
        let path = line.path.as_deref().unwrap_or("/v1/chat/completions");
        let body = line.body.get();
        let request =
            Request::from_body(path, body.as_bytes()).map_err(|error| refused(error.to_string()))?;
        let limits: Limits = serde_json::from_str(body).map_err(|error| refused(error.to_string()))?;
        let limit = limits.max_completion_tokens.or(limits.max_tokens).or(limits.max_output_tokens);
        hasher.hash(&request, &mut hashes);
        let chain = trace.add_hashes(hashes.iter().copied());
        let session = request.session.as_ref().map(|session| xxh3_64(session.as_bytes()));
        let arrival = since(*first.get_or_insert(seconds), seconds);
        let previous = session.and_then(|session| sessions.insert(session, trace.requests.len() as u32));
        let before = previous.and_then(|at: u32| trace.requests.get(at as usize)).copied();
        let entry = TraceRequest {
            previous,
            think_time: before.map_or(0, |before| arrival.saturating_sub(before.arrival)),
            prompt_tokens: hasher.prompt_tokens(&request).max(1),
            output_tokens: line.output_tokens.or(limit).unwrap_or(DEFAULT_OUTPUT_TOKENS).max(1),
            model: position(&mut trace.models, &request.model),
            adapter: request.adapter.as_ref().map(|adapter| position(&mut trace.adapters, adapter)),
            session,
            priority: request.priority,
            ..TraceRequest::new(arrival, chain)
        };
        trace.push(entry);
    }
    trace.sort();
    Ok(trace)
}

impl Timestamp<'_> {
    fn seconds(&self) -> Result<f64, String> {
        match self {
            Self::Seconds(seconds) => Ok(*seconds),
            Self::Date(date) => azure::seconds(date)
                .ok_or_else(|| format!("timestamp must be seconds or a date and time: `{date}`")),
        }
    }
}

/// Where a name is in a list, to which it is added if need be.
fn position(names: &mut Vec<String>, name: &str) -> u16 {
    let at = names.iter().position(|known| known == name).unwrap_or_else(|| {
        names.push(name.to_owned());
        names.len() - 1
    });
    at as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_that_begin_alike_share_blocks() {
        let system = "You answer in verse. ".repeat(20);
        let line = |time: &str, question: &str| {
            format!(
                "{{\"timestamp\": {time}, \"body\": {{\"model\": \"llama\", \"user\": \"ann\", \"max_tokens\": 9, \"messages\": \
                 [{{\"role\": \"system\", \"content\": \"{system}\"}}, {{\"role\": \"user\", \"content\": \"{question}\"}}]}}}}\n"
            )
        };
        let text = line("\"2025-03-01T12:00:00Z\"", "What is rain?") + &line("1740830401.5", "What is snow?");
        let trace = parse(&text).unwrap();
        let [first, second] = [0, 1].map(|at: usize| trace.requests[at]);
        assert_eq!((second.arrival, second.previous, second.output_tokens), (1_500_000_000, Some(0), 9));
        assert_eq!(trace.models, ["llama"]);
        let shared = trace.blocks_of(&first).iter().zip(trace.blocks_of(&second)).take_while(|(a, b)| a == b);
        assert_eq!(shared.count(), 6, "{} bytes of 64 each", system.len());
        let error = parse("{\"timestamp\": \"now\", \"body\": {\"messages\": []}}").unwrap_err().to_string();
        assert_eq!(error, "line 1: timestamp must be seconds or a date and time: `now`");
    }
}
