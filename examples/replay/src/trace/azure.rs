//! Azure's traces of LLM inference: CSV with `TIMESTAMP`, `ContextTokens` and `GeneratedTokens`.
//!
//! Source: `AzureLLMInferenceTrace_{conv,code}.csv` in
//! [Azure/AzurePublicDataset](https://github.com/Azure/AzurePublicDataset). What prompts share was not recorded: here
//! every prompt is its own, so these traces say something about load alone.

use std::time::UNIX_EPOCH;

use serde::Deserialize;

use super::{Trace, TraceRequest, since};
use crate::Error;

/// What the first line begins with.
pub(super) const HEADER: &str = "TIMESTAMP,";

const BLOCK_TOKENS: u32 = 16;

#[derive(Deserialize)]
struct Row {
    #[serde(rename = "TIMESTAMP")]
    timestamp: String,
    #[serde(rename = "ContextTokens")]
    context_tokens: u32,
    #[serde(rename = "GeneratedTokens")]
    generated_tokens: u32,
}

pub(super) fn parse(text: &str) -> Result<Trace, Error> {
    let mut trace = Trace::new("azure", BLOCK_TOKENS);
    let mut first = None;
    let mut content = 0;
    for (at, row) in csv::Reader::from_reader(text.as_bytes()).deserialize::<Row>().enumerate() {
        let line = at + 2;
        let row = row.map_err(|error| Error::trace(line, error.to_string()))?;
        let seconds = seconds(&row.timestamp).ok_or_else(|| {
            Error::trace(line, format!("TIMESTAMP must be a date and time: `{}`", row.timestamp))
        })?;
        let start = *first.get_or_insert(seconds);
        let full = u64::from((row.context_tokens + row.generated_tokens) / BLOCK_TOKENS);
        let chain = trace.add_chain(content..content + full);
        content += full;
        trace.push(TraceRequest {
            prompt_tokens: row.context_tokens.max(1),
            output_tokens: row.generated_tokens.max(1),
            ..TraceRequest::new(since(start, seconds), chain)
        });
    }
    trace.sort();
    Ok(trace)
}

/// Seconds since 1970 of a time such as `2023-11-16 18:15:46.6805900`, with or without `+00:00`.
pub(super) fn seconds(timestamp: &str) -> Option<f64> {
    let time = humantime::parse_rfc3339_weak(timestamp.trim_end_matches("+00:00")).ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_and_share_nothing() {
        let text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n\
                    2023-11-16 18:15:48.6805900,374,0\n";
        let trace = parse(text).unwrap();
        assert_eq!(trace.requests[1].arrival.div_ceil(1_000_000), 2_000);
        assert_eq!(trace.requests[1].output_tokens, 1);
        let [first, second] = [0, 1].map(|at: usize| trace.blocks_of(&trace.requests[at]));
        assert!(first.len() == 23 && first[0] != second[0]);
        let error = parse("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,1\n").unwrap_err();
        assert_eq!(error.to_string(), "line 2: TIMESTAMP must be a date and time: `yesterday`");
    }
}
