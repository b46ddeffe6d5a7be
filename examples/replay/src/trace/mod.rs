//! Step 1: requests with their times, as they were recorded or made up.
//!
//! | format | file | block | who shares what |
//! |---|---|---|---|
//! | [`mooncake`] | JSON lines | 512 tokens | `hash_ids` |
//! | [`qwen_bailian`] | JSON lines | 16 tokens | `hash_ids`; turns by `parent_chat_id` |
//! | [`azure`] | CSV | 16 tokens | nothing is recorded: every prompt is its own |
//! | [`openai_log`] | JSON lines | 16 tokens | the prompts themselves |

pub mod azure;
pub mod mooncake;
pub mod openai_log;
pub mod qwen_bailian;

use std::path::Path;

use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::xxh3_64;

use crate::Error;

/// Nanoseconds in a second.
pub(crate) const SECOND: f64 = 1e9;

/// Requests in the order of their arrivals.
///
/// # Example
///
/// ```
/// use p3sched_replay::trace::{Trace, TraceRequest};
///
/// let mut trace = Trace::new("two turns", 16);
/// let conversation = trace.add_chain([1, 2, 3, 4]);
/// trace.push(TraceRequest { prompt_tokens: 40, output_tokens: 10, ..TraceRequest::new(0, conversation) });
/// trace.push(TraceRequest { prompt_tokens: 64, output_tokens: 10, ..TraceRequest::new(5_000_000_000, conversation) });
/// assert_eq!(trace.blocks_of(&trace.requests[0]).len(), 2, "full blocks of the prompt alone");
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// What it is called in tables.
    pub name: String,
    /// Tokens per block: what engines cache and count in.
    pub block_tokens: u32,
    /// Nanoseconds to which arrivals were rounded; 1 if they were not.
    pub resolution: u64,
    /// Names of the models; a request has the position of its own.
    pub models: Vec<String>,
    /// Names of the adapters (LoRA); a request has the position of its own.
    pub adapters: Vec<String>,
    /// The requests, by arrival.
    pub requests: Vec<TraceRequest>,
    /// Chained block hashes of all requests, one after the other.
    blocks: Vec<u64>,
}

/// Where the chained hashes of a text's full blocks are in its trace; several requests can be heads of one text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Chain {
    start: usize,
    length: u32,
}

/// One request of a trace.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TraceRequest {
    /// Nanoseconds since the start of the trace.
    pub arrival: u64,
    /// The earlier request of the same session that has to be answered first, in a closed loop.
    pub previous: Option<u32>,
    /// Nanoseconds between that answer and this request, in a closed loop.
    pub think_time: u64,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer, at least 1.
    pub output_tokens: u32,
    /// The full blocks of prompt and answer, as far as they are known.
    pub chain: Chain,
    /// Position of the model's name.
    pub model: u16,
    /// Position of the adapter's name; `None` for the model itself.
    pub adapter: Option<u16>,
    /// Ties the requests of a conversation together; `None` if that is not known.
    pub session: Option<u64>,
    /// Larger is more urgent.
    pub priority: i32,
}

impl TraceRequest {
    /// A request for the first model with one token of prompt and answer.
    pub fn new(arrival: u64, chain: Chain) -> Self {
        Self {
            arrival,
            previous: None,
            think_time: 0,
            prompt_tokens: 1,
            output_tokens: 1,
            chain,
            model: 0,
            adapter: None,
            session: None,
            priority: 0,
        }
    }
}

impl Trace {
    /// A trace without requests, of one model.
    pub fn new(name: impl Into<String>, block_tokens: u32) -> Self {
        Self {
            name: name.into(),
            block_tokens,
            resolution: 1,
            models: vec!["model".to_owned()],
            adapters: Vec::new(),
            requests: Vec::new(),
            blocks: Vec::new(),
        }
    }

    /// Reads a file of any known format; which one it is shows in its first line.
    ///
    /// # Errors
    ///
    /// [`Error::Trace`] names the line that cannot be read.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::file(path, &error))?;
        let name = path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Self::parse(&name, &text).map_err(|error| error.in_file(path))
    }

    /// Reads a text of any known format.
    ///
    /// # Errors
    ///
    /// [`Error::Trace`] names the line that cannot be read.
    pub fn parse(name: &str, text: &str) -> Result<Self, Error> {
        let first = text.lines().next().unwrap_or_default();
        let mut trace = if first.starts_with(azure::HEADER) {
            azure::parse(text)?
        } else if first.contains("\"chat_id\"") {
            qwen_bailian::parse(text)?
        } else if first.contains("\"hash_ids\"") {
            mooncake::parse(text)?
        } else if first.trim_start().starts_with('{') {
            openai_log::parse(text)?
        } else {
            return Err(Error::trace(1, format!("not a trace that is known: `{first:.60}`")));
        };
        if trace.requests.is_empty() {
            return Err(Error::trace(1, "the trace holds no request".to_owned()));
        }
        name.clone_into(&mut trace.name);
        Ok(trace)
    }

    /// Adds the blocks of a text by what is in them: any numbers, equal for equal contents. Each is chained to the ones
    /// before it, so that equal hashes mean equal texts up to that block.
    pub fn add_chain(&mut self, contents: impl IntoIterator<Item = u64>) -> Chain {
        let mut before = 0;
        self.add_hashes(contents.into_iter().map(|content| {
            before = chained(before, content);
            before
        }))
    }

    /// Adds the blocks of a text by hashes that are chained already.
    pub fn add_hashes(&mut self, hashes: impl IntoIterator<Item = u64>) -> Chain {
        let start = self.blocks.len();
        self.blocks.extend(hashes);
        Chain { start, length: (self.blocks.len() - start) as u32 }
    }

    /// Adds a request; it must not arrive before the ones that are there.
    pub fn push(&mut self, request: TraceRequest) {
        self.requests.push(request);
    }

    /// Sorts requests that were not added by arrival, and mends what they say of each other.
    pub(crate) fn sort(&mut self) {
        let mut order: Vec<u32> = (0..self.requests.len() as u32).collect();
        order.sort_by_key(|&at| self.requests.get(at as usize).map(|request| request.arrival));
        let mut places = vec![0; order.len()];
        for (place, &at) in (0..).zip(&order) {
            if let Some(slot) = places.get_mut(at as usize) {
                *slot = place;
            }
        }
        let sorted = order.iter().filter_map(|&at| self.requests.get(at as usize).copied());
        self.requests = sorted
            .map(|mut request| {
                request.previous = request.previous.and_then(|at| places.get(at as usize).copied());
                request
            })
            .collect();
    }

    /// Chained hashes of the full blocks of a request's prompt.
    pub fn blocks_of(&self, request: &TraceRequest) -> &[u64] {
        let known = self.all_blocks_of(request);
        let full = (request.prompt_tokens / self.block_tokens) as usize;
        known.get(..full).unwrap_or(known)
    }

    /// Chained hashes of the full blocks of prompt and answer together, as far as they are known.
    pub fn all_blocks_of(&self, request: &TraceRequest) -> &[u64] {
        let Chain { start, length } = request.chain;
        let known = self.blocks.get(start..start + length as usize).unwrap_or_default();
        let full = (request.prompt_tokens.saturating_add(request.output_tokens) / self.block_tokens) as usize;
        known.get(..full).unwrap_or(known)
    }

    /// Prompt tokens of all requests.
    pub fn prompt_tokens(&self) -> u64 {
        self.requests.iter().map(|request| u64::from(request.prompt_tokens)).sum()
    }

    /// Nanoseconds from the start to the last arrival, to which its rounding is added.
    pub fn duration(&self) -> u64 {
        self.requests.last().map_or(0, |request| request.arrival) + self.resolution
    }
}

/// The hash of a block that follows `before`.
pub(crate) fn chained(before: u64, content: u64) -> u64 {
    let [a, b] = [before, content].map(u64::to_le_bytes);
    let mut bytes = [0; 16];
    let (head, tail) = bytes.split_at_mut(8);
    head.copy_from_slice(&a);
    tail.copy_from_slice(&b);
    xxh3_64(&bytes)
}

/// Reads one JSON object per line; empty lines are left out.
fn json_lines<T: DeserializeOwned>(text: &str) -> impl Iterator<Item = Result<(usize, T), Error>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(at, line)| {
        let parsed = serde_json::from_str(line);
        parsed.map(|value| (at + 1, value)).map_err(|error| Error::trace(at + 1, error.to_string()))
    })
}

/// A time in seconds as nanoseconds after the first one.
fn since(first: f64, seconds: f64) -> u64 {
    ((seconds - first).max(0.0) * SECOND).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_contents_after_different_ones_are_different_blocks() {
        let mut trace = Trace::new("", 16);
        let (a, b) = (trace.add_chain([1, 2, 3]), trace.add_chain([1, 9, 3]));
        let request = |chain| TraceRequest { prompt_tokens: 48, ..TraceRequest::new(0, chain) };
        let (a, b) = (trace.blocks_of(&request(a)), trace.blocks_of(&request(b)));
        assert_eq!(a[0], b[0]);
        assert!(a[1] != b[1] && a[2] != b[2]);
    }

    #[test]
    fn sorting_keeps_what_follows_what() {
        let mut trace = Trace::new("", 16);
        let chain = trace.add_chain([1]);
        trace.push(TraceRequest { prompt_tokens: 5, ..TraceRequest::new(30, chain) });
        trace.push(TraceRequest { previous: Some(0), ..TraceRequest::new(40, chain) });
        trace.push(TraceRequest::new(10, chain));
        trace.sort();
        assert_eq!(trace.requests.iter().map(|request| request.arrival).collect::<Vec<_>>(), [10, 30, 40]);
        assert_eq!(trace.requests[2].previous, Some(1));
    }

    #[test]
    fn what_is_no_trace_is_said_with_its_line() {
        let refused = |text| Trace::parse("t", text).unwrap_err().to_string();
        assert_eq!(refused("hello"), "line 1: not a trace that is known: `hello`");
        let cut = "{\"timestamp\": 1, \"input_length\": 2, \"output_length\": 1, \"hash_ids\": [1]}\n{\"timestamp\"";
        assert!(refused(cut).starts_with("line 2: "), "{}", refused(cut));
    }
}
