//! Answers name the model that the client asked for, where another one served.

use bytes::Bytes;
use memchr::memmem::Finder;

const KEY: &[u8] = b"\"model\"";

/// White space around the colon that is waited for when a chunk ends there; engines write none or one.
const MAX_HELD_SPACE: usize = 16;

/// Replaces the value of every key `model` that is the model that served.
///
/// The answer passes by in chunks of any size. What may be the beginning of such a key and value at the end of a chunk
/// is held back until the next one.
#[derive(Debug)]
pub(super) struct ModelNames {
    finder: Finder<'static>,
    /// As JSON strings, quotes included.
    served: Bytes,
    asked: Bytes,
    held: Vec<u8>,
}

/// What stands behind a key.
enum Value {
    /// The model that served, up to this place.
    Served { from: usize, to: usize },
    /// Something else.
    Other,
    /// Not yet known.
    Open,
}

impl ModelNames {
    /// Puts `asked` where `served` stands; both are names, not JSON.
    pub(super) fn new(served: &str, asked: &str) -> Self {
        Self {
            finder: Finder::new(KEY),
            served: json_string(served),
            asked: json_string(asked),
            held: Vec::new(),
        }
    }

    /// Whether a body changes its length with every name that is replaced.
    pub(super) fn changes_length(&self) -> bool {
        self.served.len() != self.asked.len()
    }

    /// The chunk as it goes on; a chunk without the name is not copied.
    ///
    /// With `may_hold` the end of it may be held back for the next chunk.
    pub(super) fn pass(&mut self, chunk: Bytes, may_hold: bool) -> Bytes {
        let text = if self.held.is_empty() {
            chunk
        } else {
            self.held.extend_from_slice(&chunk);
            Bytes::from(std::mem::take(&mut self.held))
        };
        let mut out = Vec::new();
        let (mut copied, mut at) = (0, 0);
        let mut end = text.len();
        while let Some(key) = self.finder.find(text.get(at..).unwrap_or_default()).map(|found| at + found) {
            at = key + KEY.len();
            match self.value(&text, at) {
                Value::Served { from, to } => {
                    out.extend_from_slice(text.get(copied..from).unwrap_or_default());
                    out.extend_from_slice(&self.asked);
                    (copied, at) = (to, to);
                }
                Value::Open => end = key,
                Value::Other => {}
            }
        }
        if end == text.len() {
            let is_begun = |length: &usize| {
                KEY.get(..*length)
                    .is_some_and(|begun| text.get(copied..).unwrap_or_default().ends_with(begun))
            };
            end -= (1..KEY.len()).rev().find(is_begun).unwrap_or(0);
        }
        if !may_hold {
            end = text.len();
        }
        self.held.extend_from_slice(text.get(end..).unwrap_or_default());
        if copied == 0 {
            return text.slice(..end);
        }
        out.extend_from_slice(text.get(copied..end).unwrap_or_default());
        Bytes::from(out)
    }

    /// What was held back, when no further chunk comes.
    pub(super) fn rest(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.held))
    }

    fn value(&self, text: &[u8], at: usize) -> Value {
        let mut rest = text.get(at..).unwrap_or_default();
        for _ in 0..=MAX_HELD_SPACE {
            match rest {
                [b':' | b' ' | b'\t' | b'\r' | b'\n', tail @ ..] => rest = tail,
                _ => break,
            }
        }
        if rest.starts_with(&self.served) {
            let from = text.len() - rest.len();
            return Value::Served { from, to: from + self.served.len() };
        }
        if self.served.starts_with(rest) { Value::Open } else { Value::Other }
    }
}

/// A text as JSON writes it.
pub(super) fn json_string(text: &str) -> Bytes {
    Bytes::from(serde_json::Value::from(text).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_chunks(text: &str, sizes: usize) -> String {
        let mut names = ModelNames::new("llama-8b", "llama");
        let chunks: Vec<_> = text.as_bytes().chunks(sizes).collect();
        let mut out = Vec::new();
        for (place, chunk) in chunks.iter().enumerate() {
            let is_last = place + 1 == chunks.len();
            out.extend_from_slice(&names.pass(Bytes::copy_from_slice(chunk), !is_last));
        }
        out.extend_from_slice(&names.rest());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_the_served_model_under_its_key_is_replaced_whatever_the_chunks() {
        for (text, expected) in [
            (r#"{"model":"llama-8b","x":1}"#, r#"{"model":"llama","x":1}"#),
            (r#"{"model" : "llama-8b"}"#, r#"{"model" : "llama"}"#),
            (r#"{"model":"llama-8b-x"}"#, r#"{"model":"llama-8b-x"}"#),
            (r#"{"model":"other","text":"llama-8b"}"#, r#"{"model":"other","text":"llama-8b"}"#),
            (r#"{"t":"say \"model\":\"llama-8b\""}"#, r#"{"t":"say \"model\":\"llama-8b\""}"#),
            (
                "data: {\"model\":\"llama-8b\"}\n\ndata: {\"model\":\"llama-8b\"}\n\ndata: [DONE]\n\n",
                "data: {\"model\":\"llama\"}\n\ndata: {\"model\":\"llama\"}\n\ndata: [DONE]\n\n",
            ),
            (r#"{"model"#, r#"{"model"#),
        ] {
            for size in 1..=text.len() {
                assert_eq!(in_chunks(text, size), expected, "chunks of {size}");
            }
        }
    }

    #[test]
    fn nothing_is_held_back_but_what_may_be_the_name() {
        let mut names = ModelNames::new("llama-8b", "llama");
        let chunk = Bytes::from_static(b"data: {\"delta\":\"model\"}\n\n");
        assert_eq!(names.pass(chunk.clone(), true), chunk);
        assert_eq!(names.pass(Bytes::from_static(b"x\"mod"), true), "x");
        assert_eq!(names.rest(), "\"mod");
        assert_eq!(names.pass(Bytes::from_static(b"x\"mod"), false), "x\"mod");
    }
}
