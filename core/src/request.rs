//! Step 1: what is known of a request before an endpoint is picked.

/// The prompt, in the form that block hashes are computed from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prompt {
    /// Canonical prompt bytes: what [`Request::from_body`] extracts, or any text as UTF-8.
    Bytes(Vec<u8>),
    /// Token ids of the model's own tokenizer.
    Tokens(Vec<u32>),
}

impl Default for Prompt {
    fn default() -> Self {
        Self::Bytes(Vec::new())
    }
}

/// One request to be routed: plain data, the same in every language.
///
/// Requests whose `model`, `adapter` or `cache_salt` differ never share a prefix.
///
/// # Example
///
/// ```
/// use p3sched::Request;
///
/// let request = Request::from_text("llama-3-8b", "You are a helpful assistant.");
/// assert_eq!(request.model, "llama-3-8b");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// Name of the model as the client wrote it; empty when it named none.
    pub model: String,
    /// LoRA adapter, when it is known apart from the model name.
    pub adapter: Option<String>,
    /// vLLM's `cache_salt`: requests with different salts never share a prefix.
    pub cache_salt: Option<String>,
    /// Key that ties the requests of one conversation or user together (`prompt_cache_key`, `user`).
    pub session: Option<String>,
    /// Larger is more urgent; negative requests may be shed.
    pub priority: i32,
    /// What the block hashes are computed from.
    pub prompt: Prompt,
    /// Whether the client asked for a streamed answer (`"stream": true`).
    pub stream: bool,
    /// Names of the only endpoints that may serve this request; `None` allows all.
    pub subset: Option<Vec<String>>,
    /// Whether the decision shall carry an [`Explanation`](crate::Explanation).
    pub explain: bool,
}

impl Request {
    /// A request for a model with a prompt given as text.
    ///
    /// Use this when there is no OpenAI body at hand, in tests for example.
    pub fn from_text(model: impl Into<String>, text: impl Into<Vec<u8>>) -> Self {
        Self { model: model.into(), prompt: Prompt::Bytes(text.into()), ..Self::default() }
    }

    /// A request for a model with a prompt given as token ids.
    ///
    /// Use this in precise mode, where the engines' KV events carry token ids.
    pub fn from_tokens(model: impl Into<String>, tokens: impl Into<Vec<u32>>) -> Self {
        Self { model: model.into(), prompt: Prompt::Tokens(tokens.into()), ..Self::default() }
    }
}
