//! What a pick answers.

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

use smallvec::SmallVec;

use crate::ffi::guard_or;

/// Room for the name of an endpoint inside the handle: `255.255.255.255:65535` and its NUL.
const INLINE_NAME_BYTES: usize = 24;

/// Memory of freed handles that a thread keeps for its next picks: 7 KiB.
const MAX_SPARE_HANDLES: usize = 64;

thread_local! {
    /// Between the short-lived buffers of a pick a handle that stays is what an allocator is slow at.
    #[expect(clippy::vec_box, reason = "the handles are boxes, and what is kept is their memory")]
    static SPARE_HANDLES: RefCell<Vec<Box<MaybeUninit<Decision>>>> = const { RefCell::new(Vec::new()) };
}

/// Which endpoint serves a request, and why. Does not change after it was made.
pub struct Decision {
    decision: p3sched::Decision,
    /// The endpoint and the fallbacks, each with a NUL behind it.
    names: SmallVec<[u8; INLINE_NAME_BYTES]>,
    texts: OnceLock<Box<Texts>>,
}

/// What is written when it is asked for.
#[derive(Default)]
struct Texts {
    json: OnceLock<CString>,
    explanation_json: OnceLock<CString>,
    explanation_text: OnceLock<CString>,
}

impl Decision {
    pub(crate) fn new(decision: p3sched::Decision) -> Self {
        let mut names = SmallVec::from_slice(decision.endpoint.as_bytes());
        names.push(0);
        for name in &decision.fallbacks {
            names.extend_from_slice(name.as_bytes());
            names.push(0);
        }
        Self { decision, names, texts: OnceLock::new() }
    }

    /// Gives the decision to the caller, as a handle.
    pub(crate) fn into_handle(self) -> *mut Self {
        let spare = SPARE_HANDLES.try_with(|spare| spare.try_borrow_mut().ok()?.pop());
        let handle = spare.ok().flatten().unwrap_or_else(Box::new_uninit);
        Box::into_raw(Box::write(handle, self))
    }

    /// Ends a handle that `into_handle` made, and keeps its memory.
    ///
    /// # Safety
    ///
    /// It must not be used any more.
    unsafe fn free(handle: *mut Self) {
        // SAFETY: the handle holds a decision, which is not used any more.
        unsafe { ptr::drop_in_place(handle) };
        // SAFETY: the memory comes from a box, and nothing is left in it.
        let memory = unsafe { Box::from_raw(handle.cast::<MaybeUninit<Self>>()) };
        // Valgrind and sanitizers see the use of freed memory only if it is freed.
        if !cfg!(debug_assertions) {
            // A thread that is ending keeps nothing.
            let _ = SPARE_HANDLES.try_with(|spare| {
                let mut spare = spare.try_borrow_mut().ok()?;
                (spare.len() < MAX_SPARE_HANDLES).then(|| spare.push(memory))
            });
        }
    }

    fn texts(&self) -> &Texts {
        self.texts.get_or_init(Box::default)
    }

    /// The name at a position: 0 is the endpoint, the fallbacks follow.
    fn name(&self, at: usize) -> *const c_char {
        if at > self.decision.fallbacks.len() {
            return ptr::null();
        }
        // Every name has its NUL, so what begins there is a C string.
        self.names.split_inclusive(|&byte| byte == 0).nth(at).map_or(ptr::null(), |name| name.as_ptr().cast())
    }
}

/// Reads a value of the decision behind a pointer; `otherwise` for NULL.
fn get<T>(decision: *const Decision, otherwise: T, value: impl FnOnce(&Decision) -> T) -> T {
    // SAFETY: a pointer that is not NULL is a decision that was not freed, as the contract says.
    unsafe { decision.as_ref() }.map_or(otherwise, value)
}

/// The text in a cell, which is written at the first call; NULL if there is none.
fn cached(cell: &OnceLock<CString>, text: impl FnOnce() -> Option<String>) -> *const c_char {
    if let Some(text) = cell.get() {
        return text.as_ptr();
    }
    let Some(text) = text().and_then(|text| CString::new(text).ok()) else { return ptr::null() };
    cell.get_or_init(|| text).as_ptr()
}

/// Id of the request for `p3sched_scheduler_first_token` and `p3sched_scheduler_complete`: below 2^53, never reused, 0 if
/// nothing was booked (after `explain`); NULL gives 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_decision_id(decision: *const Decision) -> u64 {
    get(decision, 0, |decision| decision.decision.id)
}

/// Name of the chosen endpoint. The text belongs to the decision; NULL gives NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_decision_endpoint(decision: *const Decision) -> *const c_char {
    get(decision, ptr::null(), |decision| decision.names.as_ptr().cast())
}

/// How many further endpoints are named, to be tried in order if the chosen one fails: at most `fallbacks` of the
/// configuration. NULL gives 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_decision_fallback_count(decision: *const Decision) -> usize {
    get(decision, 0, |decision| decision.decision.fallbacks.len())
}

/// Name of a further endpoint, counted from 0. The text belongs to the decision; NULL, or a number that is too large, gives
/// NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_decision_fallback(decision: *const Decision, at: usize) -> *const c_char {
    get(decision, ptr::null(), |decision| at.checked_add(1).map_or(ptr::null(), |at| decision.name(at)))
}

/// Leading tokens of the prompt that the chosen endpoint is expected to hold in its cache; NULL gives 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_decision_matched_tokens(decision: *const Decision) -> u32 {
    get(decision, 0, |decision| decision.decision.matched_tokens)
}

/// Tokens of the prompt, an estimate where the prompt is text; NULL gives 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_decision_prompt_tokens(decision: *const Decision) -> u32 {
    get(decision, 0, |decision| decision.decision.prompt_tokens)
}

/// The whole decision as JSON, with the explanation if there is one, as in every language. The text belongs to the decision;
/// NULL gives NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_decision_json(decision: *const Decision) -> *const c_char {
    let json = |decision: &Decision| {
        cached(&decision.texts().json, || serde_json::to_string(&decision.decision).ok())
    };
    guard_or(ptr::null(), || get(decision, ptr::null(), json))
}

/// How every endpoint was rated, as JSON. The text belongs to the decision; NULL, or a decision that was made without
/// `explain`, gives NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_decision_explanation_json(decision: *const Decision) -> *const c_char {
    let json = |decision: &Decision| {
        cached(&decision.texts().explanation_json, || {
            serde_json::to_string(decision.decision.explanation()?).ok()
        })
    };
    guard_or(ptr::null(), || get(decision, ptr::null(), json))
}

/// How every endpoint was rated, as a table for a terminal. The text belongs to the decision; NULL, or a decision that was
/// made without `explain`, gives NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_decision_explanation_text(decision: *const Decision) -> *const c_char {
    let text = |decision: &Decision| {
        cached(&decision.texts().explanation_text, || Some(decision.decision.explanation()?.to_string()))
    };
    guard_or(ptr::null(), || get(decision, ptr::null(), text))
}

/// Frees a decision; NULL is fine. This does not end the request: that is what `p3sched_scheduler_complete` is for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_decision_free(decision: *mut Decision) {
    if decision.is_null() {
        return;
    }
    // SAFETY: the caller hands the decision back and does not use it any more, as the contract says.
    guard_or((), || unsafe { Decision::free(decision) });
}
