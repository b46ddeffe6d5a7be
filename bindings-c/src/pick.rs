//! Picks, and what becomes of their requests.

use std::ffi::{c_char, c_int, c_void};

use p3sched::{Outcome, Prompt, Request};

use crate::decision::Decision;
use crate::ffi::guard;
use crate::scheduler::Scheduler;
use crate::status::{Failure, Status};

/// A piece of a request body.
#[repr(C)]
pub struct Slice {
    /// Its first byte; may be NULL if `length` is 0.
    pub data: *const c_void,
    /// Its length in bytes.
    pub length: usize,
}

/// What is known of a request besides its body. Start from `{0}`, which says nothing; what is set replaces what the body
/// says.
#[repr(C)]
pub struct PickOptions {
    /// LoRA adapter, when it is known apart from the model name; or NULL.
    pub adapter: *const c_char,
    /// Key that ties the requests of one conversation or user together; or NULL.
    pub session: *const c_char,
    /// Names of the only endpoints that may serve this request, with or without a port; NULL allows all.
    pub subset: *const *const c_char,
    /// How many names there are.
    pub subset_count: usize,
    /// Larger is more urgent; negative requests may be shed.
    pub priority: i32,
    /// Not 0: the decision shall carry an explanation.
    pub explain: c_int,
}

/// A request that is not an HTTP body. Start from `{0}`, which is a request without prompt.
#[repr(C)]
pub struct PickRequest {
    /// Name of the model; or NULL.
    pub model: *const c_char,
    /// Requests with different salts never share a prefix; or NULL.
    pub cache_salt: *const c_char,
    /// The prompt as `text_length` bytes of text; or NULL. Not together with `token_ids`.
    pub text: *const c_void,
    /// Bytes of text.
    pub text_length: usize,
    /// The prompt as `token_count` token ids of the model's own tokenizer; or NULL.
    pub token_ids: *const u32,
    /// How many token ids there are.
    pub token_count: usize,
    /// Everything else.
    pub options: PickOptions,
}

/// A number of tokens that may not be known. Start from `{0}`, which is not known.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenCount {
    /// Not 0: `tokens` is known.
    pub is_known: c_int,
    /// The number.
    pub tokens: u32,
}

/// How a request ended. Start from `{0}`, which is a failure of which nothing more is known.
#[repr(C)]
pub struct RequestOutcome {
    /// Not 0: the endpoint answered the request.
    pub success: c_int,
    /// `usage.prompt_tokens` of the answer.
    pub prompt_tokens: TokenCount,
    /// `usage.completion_tokens` of the answer.
    pub completion_tokens: TokenCount,
    /// `usage.prompt_tokens_details.cached_tokens` of the answer: what was really found in the cache.
    pub cached_tokens: TokenCount,
    /// The endpoint that really served, where that may be another one than the chosen; or NULL.
    pub served_by: *const c_char,
}

impl PickOptions {
    fn apply(&self, request: &mut Request) -> Result<(), Failure> {
        if let Some(adapter) = read!(optional_text self.adapter) {
            request.adapter = Some(adapter.to_owned());
        }
        if let Some(session) = read!(optional_text self.session) {
            request.session = Some(session.to_owned());
        }
        if !self.subset.is_null() {
            let names = read!(array self.subset, self.subset_count).iter();
            let names = names.map(|&subset| Ok(read!(text subset).to_owned()));
            request.subset = Some(names.collect::<Result<_, Failure>>()?);
        }
        request.priority = self.priority;
        request.explain = self.explain != 0;
        Ok(())
    }
}

impl PickRequest {
    fn to_request(&self) -> Result<Request, Failure> {
        let mut request = Request::default();
        request.model = read!(optional_text self.model).unwrap_or_default().to_owned();
        request.cache_salt = read!(optional_text self.cache_salt).map(str::to_owned);
        request.prompt = match (self.text.is_null(), self.token_ids.is_null()) {
            (false, false) => return Err(Failure::argument("`text` and `token_ids`: only one may be set")),
            (_, false) => Prompt::Tokens(read!(array self.token_ids, self.token_count).to_vec()),
            (_, true) => Prompt::Bytes(read!(bytes self.text, self.text_length).to_vec()),
        };
        self.options.apply(&mut request)?;
        Ok(request)
    }
}

impl TokenCount {
    pub(crate) fn from_option(tokens: Option<u32>) -> Self {
        Self { is_known: c_int::from(tokens.is_some()), tokens: tokens.unwrap_or(0) }
    }

    fn to_option(self) -> Option<u32> {
        (self.is_known != 0).then_some(self.tokens)
    }
}

impl RequestOutcome {
    fn to_outcome(&self) -> Result<Outcome, Failure> {
        Ok(Outcome {
            success: self.success != 0,
            prompt_tokens: self.prompt_tokens.to_option(),
            completion_tokens: self.completion_tokens.to_option(),
            cached_tokens: self.cached_tokens.to_option(),
            served_by: read!(optional_text self.served_by).map(str::to_owned),
        })
    }
}

/// The request in a body. A body in one piece is read where it is.
fn request_from_body(path: &str, chunks: &[Slice]) -> Result<Request, Failure> {
    let piece = |chunk: &Slice| Ok(read!(bytes chunk.data, chunk.length));
    Ok(match chunks {
        [] => Request::from_body(path, &[])?,
        [chunk] => Request::from_body(path, piece(chunk)?)?,
        _ => {
            let pieces = chunks.iter().map(piece).collect::<Result<Vec<&[u8]>, Failure>>()?;
            Request::from_body(path, &pieces.concat())?
        }
    })
}

/// The request in a body, with what the caller knows besides.
fn body_request(
    path: *const c_char,
    chunks: *const Slice,
    chunk_count: usize,
    options: *const PickOptions,
) -> Result<Request, Failure> {
    let mut request = request_from_body(read!(text path), read!(array chunks, chunk_count))?;
    if let Some(options) = read!(optional options) {
        options.apply(&mut request)?;
    }
    Ok(request)
}

/// Picks the endpoint for a request, books the work on it and remembers the prefix, in one step. `request` is only read;
/// the caller owns `*decision` and frees it with `p3sched_decision_free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_scheduler_pick(
    scheduler: *const Scheduler,
    request: *const PickRequest,
    decision: *mut *mut Decision,
) -> Status {
    guard(|| {
        let (out, scheduler) = (read!(output decision), read!(borrow scheduler));
        let request = read!(borrow request).to_request()?;
        out.write(Decision::new(scheduler.core.pick(&request, scheduler.now())?).into_handle());
        Ok(())
    })
}

/// Picks the endpoint for the HTTP body of a request to `path`, which is matched by its end (`/v1/chat/completions`,
/// `/v1/completions`, `/v1/responses`, `/v1/messages`, `/v1/embeddings`, `/generate`); any other path, and a body of none,
/// is picked by load alone. The `chunk_count` pieces at `chunks` are the body one behind the other and are only read; one
/// piece is not copied. `options` may be NULL; the caller owns `*decision` and frees it with `p3sched_decision_free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_scheduler_pick_body(
    scheduler: *const Scheduler,
    path: *const c_char,
    chunks: *const Slice,
    chunk_count: usize,
    options: *const PickOptions,
    decision: *mut *mut Decision,
) -> Status {
    guard(|| {
        let (out, scheduler) = (read!(output decision), read!(borrow scheduler));
        let request = body_request(path, chunks, chunk_count, options)?;
        out.write(Decision::new(scheduler.core.pick(&request, scheduler.now())?).into_handle());
        Ok(())
    })
}

/// What `p3sched_scheduler_pick` would answer now, with its explanation; records nothing. `request` is only read; the
/// caller owns `*decision` and frees it with `p3sched_decision_free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_scheduler_explain(
    scheduler: *const Scheduler,
    request: *const PickRequest,
    decision: *mut *mut Decision,
) -> Status {
    guard(|| {
        let (out, scheduler) = (read!(output decision), read!(borrow scheduler));
        let request = read!(borrow request).to_request()?;
        out.write(Decision::new(scheduler.core.explain(&request, scheduler.now())?).into_handle());
        Ok(())
    })
}

/// What `p3sched_scheduler_pick_body` would answer now, with its explanation; records nothing. The body is only read,
/// `options` may be NULL; the caller owns `*decision` and frees it with `p3sched_decision_free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_scheduler_explain_body(
    scheduler: *const Scheduler,
    path: *const c_char,
    chunks: *const Slice,
    chunk_count: usize,
    options: *const PickOptions,
    decision: *mut *mut Decision,
) -> Status {
    guard(|| {
        let (out, scheduler) = (read!(output decision), read!(borrow scheduler));
        let request = body_request(path, chunks, chunk_count, options)?;
        out.write(Decision::new(scheduler.core.explain(&request, scheduler.now())?).into_handle());
        Ok(())
    })
}

/// Reports the first token of a request: its prefill is done. A second report changes nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_scheduler_first_token(scheduler: *const Scheduler, id: u64) -> Status {
    guard(|| {
        let scheduler = read!(borrow scheduler);
        Ok(scheduler.core.first_token(id, scheduler.now())?)
    })
}

/// Reports the end of a request; a second report changes nothing. `outcome` is only read, NULL stands for a success of
/// which nothing more is known.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_scheduler_complete(
    scheduler: *const Scheduler,
    id: u64,
    outcome: *const RequestOutcome,
) -> Status {
    guard(|| {
        let scheduler = read!(borrow scheduler);
        let outcome = match read!(optional outcome) {
            Some(outcome) => outcome.to_outcome()?,
            None => Outcome::success(),
        };
        Ok(scheduler.core.complete(id, outcome, scheduler.now())?)
    })
}
