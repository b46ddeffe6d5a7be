//! Step 1: a request body becomes a [`Request`], in one scan and without a document tree.
//!
//! # Paths
//!
//! A path is matched by its end, since gateways add prefixes; a query string does not count.
//!
//! | path | prompt | model |
//! |---|---|---|
//! | `/v1/chat/completions` | `tools`, `messages` | needed |
//! | `/v1/completions` | `prompt` (text, token ids, or an array of either), `prompt_embeds` | needed |
//! | `/v1/responses` | `tools`, `instructions`, `input` (text or items) | needed |
//! | `/v1/messages` | `tools`, `system`, `messages` | needed |
//! | `/v1/embeddings` | `input` (as `prompt` above) or `messages` | needed |
//! | `/inference/v1/generate` (vLLM) | `token_ids` | |
//! | `/generate` (SGLang and others) | `text` or `input_ids`, may be absent | |
//!
//! Any other path gives a request without prompt and model; its body is not looked at.
//!
//! # Canonical form
//!
//! The bytes that [block hashes](crate::block_hash) are computed from. They depend on what a body says, not on how it is written:
//! white space, escapes and the order of keys do not show. A conversation with one more message begins with the bytes of the
//! shorter one. Structure is marked by bytes that never occur in UTF-8:
//!
//! ```text
//! conversation = [0xFA compact(tools)] message*           no tools and an empty list are the same
//! message      = 0xFF role 0xFE content [0xFE output] [0xFE compact(tool_calls)] [0xFE compact(function_call)]
//! content      = text | part (0xFD part)*                 a content of one text part is that text
//! part         = content, if it has one | text | other
//! other        = compact(value) if its `type` ends in `call` or `tool_use`
//!              | 0xFB XXH3_64(compact(value)), eight bytes, least significant first (images, audio, files)
//! compact(v)   = v without white space; strings without escapes between two 0xFC; numbers as they stand
//! prompt       = text | text (0xFD text)*                 a batch of token ids is joined by 4294967295
//! ```
//!
//! `system` and `instructions` are a first message with the role `system`, an `input` that is a text is a message with the role
//! `user`, so that the same conversation has the same bytes in every API. A message that has none of the fields is
//! 0xFF other. What else is in a body does not count; `null` counts as absent, and where a key is repeated the last one counts.
//!
//! # What is checked
//!
//! All of a body is valid JSON ([RFC 8259](https://www.rfc-editor.org/rfc/rfc8259)) in UTF-8 without lone surrogates and at most
//! 127 levels deep, as for `serde_json`; the range of numbers that are not token ids is not checked. Beyond that, only what
//! the pick needs is: the engine is the judge of the rest.

mod beginning;
mod canonical;
mod classify;
pub(crate) mod json;

use std::ops::Range;

use self::canonical::Pieces;
use self::json::{Fault, Scan, Scanner};
use crate::{Error, Prompt, Request};

/// What a request body holds; by default nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Body {
    /// What is needed to pick an endpoint.
    pub request: Request,
    /// Where the value of `model` stands in the body, quotes included, in bytes: a gateway that renames the model replaces these
    /// bytes and leaves all others as they are.
    pub model_span: Option<Range<usize>>,
}

/// Reads the body of a request to `path`.
///
/// Use [`Request::from_body`] when the place of the model in the body does not matter.
///
/// # Errors
///
/// [`Error::InvalidRequest`] when the body of a path with a prompt is not valid JSON, not an object, or lacks the model or prompt
/// that the path needs; the message names the byte and what would be right there.
///
/// # Complexity
///
/// One scan of the body and one copy of the prompt; values that are neither text nor calls are scanned twice.
///
/// # Example
///
/// ```
/// use p3sched::openai;
///
/// let text = br#"{"model": "llama", "prompt": "Once upon"}"#;
/// let body = openai::scan("/team/v1/completions", text)?;
/// assert_eq!(body.request.model, "llama");
/// assert_eq!(&text[body.model_span.unwrap()], br#""llama""#);
/// # Ok::<(), p3sched::Error>(())
/// ```
pub fn scan(path: &str, body: &[u8]) -> Result<Body, Error> {
    let Some(api) = Api::of(path) else {
        return Ok(Body::default());
    };
    let mut fields = Fields::new(body);
    fields.read(api, &mut Scanner::new(body)).map_err(|fault| Error::InvalidRequest(fault.describe(body)))?;
    fields.finish(api)
}

/// Reads the beginning of a body of a request to `path`, as if all that is open ended where it is cut.
///
/// Use this where a gateway shows no more than the first bytes of long bodies: the blocks of the prompt that are whole have the
/// hashes that they have in the whole body.
///
/// # Errors
///
/// [`Error::InvalidRequest`] as for [`scan`], also where the model or the prompt comes after the cut.
///
/// # Complexity
///
/// That of [`scan`], and a pass and a copy more.
///
/// # Example
///
/// ```
/// use p3sched::{Prompt, openai};
///
/// let cut = br#"{"model": "llama", "prompt": "Once upo"#;
/// let request = openai::scan_beginning("/v1/completions", cut)?.request;
/// assert_eq!(request.prompt, Prompt::Bytes(b"Once upo".to_vec()));
/// # Ok::<(), p3sched::Error>(())
/// ```
pub fn scan_beginning(path: &str, beginning: &[u8]) -> Result<Body, Error> {
    let closed = beginning::close(beginning);
    let body = scan(path, &closed.text)?;
    match &body.model_span {
        Some(span) if span.end > closed.kept => {
            Err(Error::InvalidRequest("name of the `model` is cut off".to_owned()))
        }
        _ => Ok(body),
    }
}

impl Request {
    /// The request that a client made with an HTTP body, for every API in [`openai`](crate::openai).
    ///
    /// Paths are matched by their end. A path without a prompt (`/v1/models`) gives an empty request, which is picked by load
    /// alone, whatever its body is.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRequest`], as [`openai::scan`](scan).
    ///
    /// # Complexity
    ///
    /// One scan of the body and one copy of the prompt.
    ///
    /// # Example
    ///
    /// ```
    /// use p3sched::Request;
    ///
    /// let body = br#"{"model": "llama", "messages": [{"role": "user", "content": "Hi"}], "stream": true}"#;
    /// let request = Request::from_body("/v1/chat/completions", body)?;
    /// assert_eq!(request.model, "llama");
    /// assert!(request.stream);
    /// # Ok::<(), p3sched::Error>(())
    /// ```
    pub fn from_body(path: &str, body: &[u8]) -> Result<Self, Error> {
        scan(path, body).map(|body| body.request)
    }
}

/// The APIs whose bodies hold a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Api {
    ChatCompletions,
    Completions,
    Responses,
    Messages,
    Embeddings,
    VllmGenerate,
    Generate,
}

/// Ends of paths; the first that fits counts.
const PATHS: [(&str, Api); 7] = [
    ("/v1/chat/completions", Api::ChatCompletions),
    ("/v1/completions", Api::Completions),
    ("/v1/responses", Api::Responses),
    ("/v1/messages", Api::Messages),
    ("/v1/embeddings", Api::Embeddings),
    ("/inference/v1/generate", Api::VllmGenerate),
    ("/generate", Api::Generate),
];

/// A part of the prompt, in the order of the canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Tools,
    System,
    Conversation,
    Input,
    Prompt,
    Embeddings,
}

const PARTS: usize = Part::Embeddings as usize + 1;

impl Api {
    fn of(path: &str) -> Option<Self> {
        let path = path.split('?').next().unwrap_or(path);
        PATHS.iter().find(|(end, _)| path.ends_with(end)).map(|(_, api)| *api)
    }

    /// The part of the prompt that a key of the body holds.
    fn part(self, key: &[u8]) -> Option<Part> {
        match (self, key) {
            (Self::ChatCompletions | Self::Responses | Self::Messages, b"tools") => Some(Part::Tools),
            (Self::Messages, b"system") | (Self::Responses, b"instructions") => Some(Part::System),
            (Self::ChatCompletions | Self::Messages | Self::Embeddings, b"messages") => {
                Some(Part::Conversation)
            }
            (Self::Responses, b"input") => Some(Part::Input),
            (Self::Completions, b"prompt_embeds") => Some(Part::Embeddings),
            (Self::Completions, b"prompt")
            | (Self::Embeddings, b"input")
            | (Self::VllmGenerate, b"token_ids")
            | (Self::Generate, b"text" | b"input_ids") => Some(Part::Prompt),
            _ => None,
        }
    }

    fn needs_model(self) -> bool {
        !matches!(self, Self::VllmGenerate | Self::Generate)
    }

    /// The key without which there is no prompt, and the path that says so.
    fn needed_key(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::ChatCompletions => Some(("messages", "/v1/chat/completions")),
            Self::Completions => Some(("prompt", "/v1/completions")),
            Self::Responses => Some(("input", "/v1/responses")),
            Self::Messages => Some(("messages", "/v1/messages")),
            Self::Embeddings => Some(("input", "/v1/embeddings")),
            Self::VllmGenerate => Some(("token_ids", "/inference/v1/generate")),
            // Other engines than SGLang have this path, with prompts of their own.
            Self::Generate => None,
        }
    }
}

/// What has been read of a body.
#[derive(Debug)]
struct Fields {
    model: Option<(String, Range<usize>)>,
    stream: bool,
    cache_salt: Option<String>,
    prompt_cache_key: Option<String>,
    user: Option<String>,
    /// Whether the body holds this part of the prompt, be it empty.
    has_part: [bool; PARTS],
    canonical: Vec<u8>,
    pieces: Pieces<PARTS>,
    tokens: Vec<u32>,
}

impl Fields {
    fn new(body: &[u8]) -> Self {
        // The canonical form is hardly ever longer than the body.
        let canonical = Vec::with_capacity(body.len());
        Self {
            model: None,
            stream: false,
            cache_salt: None,
            prompt_cache_key: None,
            user: None,
            has_part: [false; PARTS],
            pieces: Pieces::new(&canonical),
            canonical,
            tokens: Vec::new(),
        }
    }

    fn read(&mut self, api: Api, scanner: &mut Scanner<'_>) -> Scan<()> {
        if scanner.peek() != Some(b'{') {
            return Err(scanner.fault("expected a JSON object"));
        }
        let mut items = scanner.open()?;
        while let Some(key) = scanner.next_key(&mut items)? {
            match key.as_ref() {
                b"model" => self.model = read_model(scanner)?,
                b"stream" => {
                    self.stream = scanner.peek() == Some(b't');
                    scanner.skip()?;
                }
                b"cache_salt" => self.cache_salt = read_text(scanner)?,
                b"prompt_cache_key" => self.prompt_cache_key = read_text(scanner)?,
                b"user" => self.user = read_text(scanner)?,
                key => match api.part(key) {
                    // Its prompt has two keys: `null` under one says nothing of the other.
                    Some(Part::Prompt) if api == Api::Generate && scanner.peek() == Some(b'n') => {
                        scanner.skip()?;
                    }
                    Some(part) => self.read_part(part, scanner)?,
                    None => scanner.skip()?,
                },
            }
        }
        scanner.end()
    }

    fn read_part(&mut self, part: Part, scanner: &mut Scanner<'_>) -> Scan<()> {
        let next = scanner.peek();
        if let Some(has_part) = self.has_part.get_mut(part as usize) {
            *has_part = next != Some(b'n');
        }
        if part == Part::Prompt {
            self.tokens.clear();
        }
        let tokens = &mut self.tokens;
        self.pieces.write(part as usize, scanner, &mut self.canonical, |scanner, out| match part {
            Part::Tools => canonical::tools(scanner, out),
            Part::System => canonical::message_of("system", scanner, out),
            Part::Input if next != Some(b'[') => canonical::message_of("user", scanner, out),
            Part::Conversation if next != Some(b'[') => Err(scanner.fault("`messages` must be an array")),
            Part::Conversation | Part::Input => canonical::messages(scanner, out),
            Part::Prompt => canonical::prompt(scanner, out, tokens),
            Part::Embeddings => canonical::opaque(scanner, out),
        })
    }

    fn finish(mut self, api: Api) -> Result<Body, Error> {
        if api.needs_model() && self.model.is_none() {
            return Err(Error::InvalidRequest("body names no `model`".to_owned()));
        }
        if let Some((key, path)) = api.needed_key()
            && !self.has_part.iter().skip(Part::Conversation as usize).any(|has_part| *has_part)
        {
            return Err(Error::InvalidRequest(format!("body holds no `{key}`, which {path} needs")));
        }
        self.pieces.arrange(&mut self.canonical);
        let (model, model_span) = self.model.unzip();
        let prompt =
            if self.tokens.is_empty() { Prompt::Bytes(self.canonical) } else { Prompt::Tokens(self.tokens) };
        let request = Request {
            model: model.unwrap_or_default(),
            cache_salt: self.cache_salt,
            session: self.prompt_cache_key.or(self.user),
            stream: self.stream,
            prompt,
            ..Request::default()
        };
        Ok(Body { request, model_span })
    }
}

/// The model's name and where it stands.
fn read_model(scanner: &mut Scanner<'_>) -> Scan<Option<(String, Range<usize>)>> {
    match scanner.peek() {
        Some(b'"') => {
            let start = scanner.position();
            let name = scanner.text()?;
            Ok(Some((name, start..scanner.position())))
        }
        Some(b'n') => scanner.skip().map(|()| None),
        _ => {
            let fault: Fault = scanner.fault("`model` must be a string");
            // What is no JSON at all is the graver mistake.
            scanner.skip()?;
            Err(fault)
        }
    }
}

/// A text that is not empty; other values count as absent.
fn read_text(scanner: &mut Scanner<'_>) -> Scan<Option<String>> {
    if scanner.peek() == Some(b'"') {
        return scanner.text().map(|text| Some(text).filter(|text| !text.is_empty()));
    }
    scanner.skip()?;
    Ok(None)
}
