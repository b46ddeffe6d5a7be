//! `Outcome`: what is reported when a request ends.

use serde::{Deserialize, Serialize};

/// How a request ended.
///
/// # Example
///
/// ```
/// use p3sched::Outcome;
///
/// let outcome = Outcome { cached_tokens: Some(1_408), ..Outcome::success() };
/// assert!(outcome.success);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "an outcome, names and values")]
pub struct Outcome {
    /// Whether the endpoint answered the request.
    pub success: bool,
    /// `usage.prompt_tokens`, if the engine reported it.
    pub prompt_tokens: Option<u32>,
    /// `usage.completion_tokens`, if the engine reported it.
    pub completion_tokens: Option<u32>,
    /// `usage.prompt_tokens_details.cached_tokens`, if the engine reported it.
    pub cached_tokens: Option<u32>,
    /// The endpoint that really served, where that may be another one than the chosen (retries, fallbacks).
    pub served_by: Option<String>,
}

impl Outcome {
    /// The endpoint answered; nothing more is known.
    pub fn success() -> Self {
        Self { success: true, ..Self::default() }
    }
}
