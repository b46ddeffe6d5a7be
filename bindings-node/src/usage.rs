//! What an answer says about the tokens it took.

use napi::bindgen_prelude::*;
use napi_derive::napi;

/// Tokens of one answer.
#[napi(object, object_from_js = false)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub prompt_tokens: Option<u32>,
    /// Tokens that were generated.
    pub completion_tokens: Option<u32>,
    /// Tokens of the prompt that were found in the prefix cache.
    pub cached_tokens: Option<u32>,
}

/// Finds the usage in an answer that passes by in chunks.
#[napi]
#[derive(Default)]
pub struct UsageScanner {
    core: p3sched::usage::UsageScanner,
}

#[napi]
impl UsageScanner {
    /// A scanner at the beginning of an answer.
    #[napi(constructor, catch_unwind)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Passes over the next bytes of the answer.
    #[napi(catch_unwind)]
    pub fn push(&mut self, chunk: Uint8ArraySlice<'_>) {
        self.core.push(&chunk);
    }

    /// What the answer has said so far.
    #[napi(catch_unwind)]
    pub fn finish(&self) -> Usage {
        let usage = self.core.finish();
        Usage {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            cached_tokens: usage.cached_tokens,
        }
    }
}
