//! What an answer says about the tokens it took, above all how many of the prompt really came from the cache.
//!
//! # What is read
//!
//! The objects under a key `usage` anywhere in the answer, in JSON and in server-sent events alike:
//!
//! | API | prompt tokens | completion tokens | cached tokens |
//! |---|---|---|---|
//! | chat, completions | `prompt_tokens` | `completion_tokens` | `prompt_tokens_details.cached_tokens` |
//! | responses | `input_tokens` | `output_tokens` | `input_tokens_details.cached_tokens` |
//! | Anthropic messages | `input_tokens` + `cache_read_input_tokens` + `cache_creation_input_tokens` | `output_tokens` | `cache_read_input_tokens` |
//!
//! A later value replaces an earlier one, value by value, since streams report while they go on.

use memchr::memmem;

use crate::openai::json::{Scan, Scanner};

/// The key with its quotes. Inside a string the quotes are escaped, so that a match is a whole token of its own.
const KEY: &[u8] = b"\"usage\"";
/// A longer usage object is passed over: real ones have a few hundred bytes.
const MAX_OBJECT_BYTES: usize = 16 * 1024;

/// Tokens of one answer; what it does not say is `None`, never 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub prompt_tokens: Option<u32>,
    /// Tokens that were generated.
    pub completion_tokens: Option<u32>,
    /// Tokens of the prompt that were found in the prefix cache.
    pub cached_tokens: Option<u32>,
}

/// Finds the usage in an answer that passes by in chunks of any size.
///
/// Use one per answer, for JSON and for event streams. It keeps nothing of the answer but the usage object it is in, at most
/// 16 KiB.
///
/// # Example
///
/// ```
/// use p3sched::usage::UsageScanner;
///
/// let mut scanner = UsageScanner::new();
/// scanner.push(b"data: {\"choices\":[],\"usage\":{\"prompt_tok");
/// scanner.push(b"ens\":13,\"prompt_tokens_details\":{\"cached_tokens\":8}}}\n\n");
/// let usage = scanner.finish();
/// assert_eq!((usage.prompt_tokens, usage.cached_tokens), (Some(13), Some(8)));
/// assert_eq!(usage.completion_tokens, None);
/// ```
#[derive(Debug)]
pub struct UsageScanner {
    finder: memmem::Finder<'static>,
    state: State,
    object: Vec<u8>,
    read: Values,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// This many bytes of the key have been seen.
    Key(usize),
    /// Behind the key: only white space and one colon may come before the object.
    Colon { seen: bool },
    /// Inside the object.
    Object { depth: u32, in_string: bool, escaped: bool },
}

impl Default for UsageScanner {
    fn default() -> Self {
        Self::new()
    }
}

impl UsageScanner {
    /// A scanner at the beginning of an answer.
    pub fn new() -> Self {
        Self {
            finder: memmem::Finder::new(KEY),
            state: State::Key(0),
            object: Vec::new(),
            read: Values::default(),
        }
    }

    /// Passes over the next bytes of the answer.
    ///
    /// # Complexity
    ///
    /// A substring search over the bytes.
    pub fn push(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        while !rest.is_empty() {
            let passed = match self.state {
                State::Key(0) => self.find_key(rest),
                State::Key(seen) => self.resume_key(seen, rest),
                State::Colon { seen } => self.pass_colon(seen, rest),
                State::Object { depth, in_string, escaped } => {
                    self.pass_object(depth, in_string, escaped, rest)
                }
            };
            rest = rest.get(passed..).unwrap_or_default();
        }
    }

    /// What the answer has said so far.
    pub fn finish(&self) -> Usage {
        self.read.usage()
    }

    fn find_key(&mut self, text: &[u8]) -> usize {
        if let Some(at) = self.finder.find(text) {
            self.state = State::Colon { seen: false };
            return at + KEY.len();
        }
        let is_begun = |seen: &usize| KEY.get(..*seen).is_some_and(|begun| text.ends_with(begun));
        self.state = State::Key((1..KEY.len()).rev().find(is_begun).unwrap_or(0));
        text.len()
    }

    fn resume_key(&mut self, seen: usize, text: &[u8]) -> usize {
        if text.first() != KEY.get(seen) {
            // The byte is looked at again: it may begin the key.
            self.state = State::Key(0);
            return 0;
        }
        self.state = if seen + 1 == KEY.len() { State::Colon { seen: false } } else { State::Key(seen + 1) };
        1
    }

    fn pass_colon(&mut self, seen: bool, text: &[u8]) -> usize {
        match text.first() {
            Some(b' ' | b'\t' | b'\r' | b'\n') => return 1,
            Some(b':') if !seen => {
                self.state = State::Colon { seen: true };
                return 1;
            }
            Some(b'{') if seen => self.state = State::Object { depth: 0, in_string: false, escaped: false },
            _ => self.state = State::Key(0),
        }
        0
    }

    fn pass_object(&mut self, mut depth: u32, mut in_string: bool, mut escaped: bool, text: &[u8]) -> usize {
        for (index, byte) in text.iter().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = in_string,
                b'"' => in_string = !in_string,
                b'{' if !in_string => depth += 1,
                b'}' if !in_string => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                self.keep(text.get(..=index).unwrap_or_default());
                self.end_object();
                return index + 1;
            }
        }
        self.keep(text);
        self.state = State::Object { depth, in_string, escaped };
        text.len()
    }

    /// Keeps bytes of the object, up to one more than the limit, which shows that it was passed.
    fn keep(&mut self, bytes: &[u8]) {
        let room = (MAX_OBJECT_BYTES + 1).saturating_sub(self.object.len());
        self.object.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }

    fn end_object(&mut self) {
        let mut values = self.read;
        // An object that is no JSON changes nothing.
        if self.object.len() <= MAX_OBJECT_BYTES && values.read(&mut Scanner::new(&self.object)).is_ok() {
            self.read = values;
        }
        self.object.clear();
        self.state = State::Key(0);
    }
}

/// Values under the names that the APIs give them.
#[derive(Debug, Clone, Copy, Default)]
struct Values {
    prompt_tokens: Option<u32>,
    completion_tokens: Option<u32>,
    cached_tokens: Option<u32>,
    cache_read_tokens: Option<u32>,
    cache_creation_tokens: Option<u32>,
}

impl Values {
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Scan<()> {
        scanner.peek();
        let mut items = scanner.open()?;
        while let Some(key) = scanner.next_key(&mut items)? {
            match key.as_ref() {
                b"prompt_tokens" | b"input_tokens" => read_count(scanner, &mut self.prompt_tokens)?,
                b"completion_tokens" | b"output_tokens" => read_count(scanner, &mut self.completion_tokens)?,
                b"cache_read_input_tokens" => read_count(scanner, &mut self.cache_read_tokens)?,
                b"cache_creation_input_tokens" => read_count(scanner, &mut self.cache_creation_tokens)?,
                b"prompt_tokens_details" | b"input_tokens_details" if scanner.peek() == Some(b'{') => {
                    self.read_details(scanner)?;
                }
                _ => scanner.skip()?,
            }
        }
        Ok(())
    }

    fn read_details(&mut self, scanner: &mut Scanner<'_>) -> Scan<()> {
        let mut items = scanner.open()?;
        while let Some(key) = scanner.next_key(&mut items)? {
            match key.as_ref() {
                b"cached_tokens" => read_count(scanner, &mut self.cached_tokens)?,
                _ => scanner.skip()?,
            }
        }
        Ok(())
    }

    fn usage(self) -> Usage {
        // Anthropic alone counts the cached tokens beside the prompt instead of in it.
        let beside =
            self.cache_read_tokens.unwrap_or(0).saturating_add(self.cache_creation_tokens.unwrap_or(0));
        Usage {
            prompt_tokens: self.prompt_tokens.map(|tokens| tokens.saturating_add(beside)),
            completion_tokens: self.completion_tokens,
            cached_tokens: self.cached_tokens.or(self.cache_read_tokens),
        }
    }
}

/// Reads a count; a value that is none leaves the earlier one.
fn read_count(scanner: &mut Scanner<'_>, count: &mut Option<u32>) -> Scan<()> {
    match scanner.peek() {
        Some(b'0'..=b'9') => *count = Some(scanner.unsigned("expected a number of tokens")?),
        _ => scanner.skip()?,
    }
    Ok(())
}
