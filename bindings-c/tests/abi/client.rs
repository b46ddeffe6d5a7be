//! The C functions as a C program calls them, with results that a test can compare.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use p3sched_c::*;
use serde_json::{Value, json};

/// A result, or the error as `{"code": …, "message": …}`.
pub(crate) type Answer = Result<Value, Value>;

/// A scheduler behind its handle.
pub(crate) struct Client {
    pub(crate) handle: *mut Scheduler,
}

impl Drop for Client {
    fn drop(&mut self) {
        // SAFETY: the handle is freed once, here.
        unsafe { p3sched_scheduler_free(self.handle) }
    }
}

impl Client {
    pub(crate) fn new(config: &str) -> Result<Self, Value> {
        let mut handle = ptr::null_mut();
        // SAFETY: the text and the place for the result live as long as the call, as for all calls in this file.
        check(unsafe { p3sched_scheduler_new(config.as_ptr().cast(), config.len(), &raw mut handle) })?;
        Ok(Self { handle })
    }

    pub(crate) fn set_time(&self, now: u64) {
        // SAFETY: the handle is live.
        check(unsafe { p3sched_scheduler_set_time(self.handle, now) }).unwrap();
    }

    pub(crate) fn add_endpoint(&self, name: &str, labels: &[(CString, CString)]) -> Answer {
        let name = c_text(name);
        let labels = c_labels(labels);
        // SAFETY: see `new`.
        done(unsafe { p3sched_scheduler_add_labelled_endpoint(self.handle, &endpoint(&name, &labels)) })
    }

    pub(crate) fn set_endpoints(&self, endpoints: &[(CString, Vec<(CString, CString)>)]) -> Answer {
        let labels: Vec<_> = endpoints.iter().map(|(_, labels)| c_labels(labels)).collect();
        let endpoints: Vec<_> =
            endpoints.iter().zip(&labels).map(|((name, _), labels)| endpoint(name, labels)).collect();
        // SAFETY: see `new`.
        done(unsafe { p3sched_scheduler_set_endpoints(self.handle, endpoints.as_ptr(), endpoints.len()) })
    }

    pub(crate) fn remove_endpoint(&self, name: &str) -> Answer {
        // SAFETY: see `new`.
        done(unsafe { p3sched_scheduler_remove_endpoint(self.handle, c_text(name).as_ptr()) })
    }

    /// Calls one of the functions that take an endpoint and bytes.
    pub(crate) fn send<T>(
        &self,
        function: unsafe extern "C" fn(*const Scheduler, *const c_char, *const T, usize) -> Status,
        endpoint: &str,
        bytes: impl AsRef<[u8]>,
    ) -> Answer {
        let (endpoint, bytes) = (c_text(endpoint), bytes.as_ref());
        // SAFETY: see `new`.
        done(unsafe { function(self.handle, endpoint.as_ptr(), bytes.as_ptr().cast(), bytes.len()) })
    }

    pub(crate) fn scrape_failed(&self, endpoint: &str, failure: ScrapeFailure) -> Answer {
        // SAFETY: see `new`.
        done(unsafe {
            p3sched_scheduler_scrape_failed(self.handle, c_text(endpoint).as_ptr(), failure as u32)
        })
    }

    pub(crate) fn first_token(&self, id: u64) -> Answer {
        // SAFETY: the handle is live.
        done(unsafe { p3sched_scheduler_first_token(self.handle, id) })
    }

    pub(crate) fn complete(&self, id: u64, outcome: &Value) -> Answer {
        let tokens = |key: &str| TokenCount {
            is_known: c_int::from(outcome[key].is_u64()),
            tokens: outcome[key].as_u64().unwrap_or(0) as u32,
        };
        let served_by = outcome["served_by"].as_str().map(c_text);
        let outcome = RequestOutcome {
            success: c_int::from(outcome["success"] == true),
            prompt_tokens: tokens("prompt_tokens"),
            completion_tokens: tokens("completion_tokens"),
            cached_tokens: tokens("cached_tokens"),
            served_by: pointer(served_by.as_ref()),
        };
        // SAFETY: see `new`.
        done(unsafe { p3sched_scheduler_complete(self.handle, id, &raw const outcome) })
    }

    /// `pick` or `explain` with a request as in the session's file. A body of an odd length is passed in three chunks.
    pub(crate) fn pick(&self, request: &Value, explain: bool) -> Answer {
        let text = |key: &str| request[key].as_str().map(c_text);
        let (adapter, session) = (text("adapter"), text("session"));
        let names = request["subset"].as_array();
        let names: Option<Vec<_>> =
            names.map(|names| names.iter().map(|name| c_text(name.as_str().unwrap())).collect());
        let subset: Option<Vec<_>> =
            names.as_ref().map(|names| names.iter().map(|name| name.as_ptr()).collect());
        let options = PickOptions {
            adapter: pointer(adapter.as_ref()),
            session: pointer(session.as_ref()),
            subset: subset.as_ref().map_or(ptr::null(), Vec::as_ptr),
            subset_count: subset.as_ref().map_or(0, Vec::len),
            priority: request["priority"].as_i64().unwrap_or(0) as i32,
            explain: c_int::from(request["explain"] == true),
        };
        match request["path"].as_str() {
            Some(path) => self.body(path, request["body"].as_str().unwrap().as_bytes(), &options, explain),
            None => self.prompt(request, request["text"].as_str().unwrap_or("").as_bytes(), options, explain),
        }
    }

    pub(crate) fn body(&self, path: &str, body: &[u8], options: &PickOptions, explain: bool) -> Answer {
        let (path, chunks, mut decision) = (c_text(path), chunks(body), ptr::null_mut());
        let function = if explain { p3sched_scheduler_explain_body } else { p3sched_scheduler_pick_body };
        let (scheduler, count) = (self.handle, chunks.len());
        // SAFETY: see `new`.
        check(unsafe {
            function(scheduler, path.as_ptr(), chunks.as_ptr(), count, options, &raw mut decision)
        })?;
        Ok(take_decision(decision))
    }

    /// A request with the `tokens`, if it has any, or with the text.
    pub(crate) fn prompt(&self, request: &Value, text: &[u8], options: PickOptions, explain: bool) -> Answer {
        let (model, salt) =
            (request["model"].as_str().map(c_text), request["cache_salt"].as_str().map(c_text));
        let tokens = request["tokens"].as_array();
        let tokens: Option<Vec<u32>> =
            tokens.map(|tokens| tokens.iter().map(|token| token.as_u64().unwrap() as u32).collect());
        let request = PickRequest {
            model: pointer(model.as_ref()),
            cache_salt: pointer(salt.as_ref()),
            text: if tokens.is_some() { ptr::null() } else { text.as_ptr().cast() },
            text_length: text.len(),
            token_ids: tokens.as_ref().map_or(ptr::null(), Vec::as_ptr),
            token_count: tokens.as_ref().map_or(0, Vec::len),
            options,
        };
        let mut decision = ptr::null_mut();
        let function = if explain { p3sched_scheduler_explain } else { p3sched_scheduler_pick };
        // SAFETY: see `new`.
        check(unsafe { function(self.handle, &raw const request, &raw mut decision) })?;
        Ok(take_decision(decision))
    }

    pub(crate) fn apply_kv_batch(&self, endpoint: &str, json: &str) -> Answer {
        let endpoint = c_text(endpoint);
        let mut result = KvBatchResult { fate: KvBatchFate::Gap, expected: 0 };
        // SAFETY: see `new`.
        check(unsafe {
            p3sched_scheduler_apply_kv_batch(
                self.handle,
                endpoint.as_ptr(),
                json.as_ptr().cast(),
                json.len(),
                &raw mut result,
            )
        })?;
        Ok(kv_result(result))
    }

    pub(crate) fn apply_kv_payload(&self, endpoint: &str, payload: &[u8], sequence: u64) -> Answer {
        let endpoint = c_text(endpoint);
        let mut result = KvBatchResult { fate: KvBatchFate::Gap, expected: 0 };
        // SAFETY: see `new`.
        check(unsafe {
            p3sched_scheduler_apply_kv_payload(
                self.handle,
                endpoint.as_ptr(),
                payload.as_ptr().cast(),
                payload.len(),
                sequence,
                &raw mut result,
            )
        })?;
        Ok(kv_result(result))
    }

    pub(crate) fn resume_kv_events(&self, endpoint: &str, rank: u32, next: u64) -> Answer {
        // SAFETY: see `new`.
        done(unsafe {
            p3sched_scheduler_resume_kv_events(self.handle, c_text(endpoint).as_ptr(), rank, next)
        })
    }

    pub(crate) fn snapshot(&self) -> Vec<u8> {
        buffer(|out| {
            // SAFETY: see `new`.
            unsafe { p3sched_scheduler_snapshot(self.handle, out) }
        })
        .unwrap()
    }

    pub(crate) fn restore(&self, bytes: &[u8]) -> Answer {
        // SAFETY: see `new`.
        done(unsafe { p3sched_scheduler_restore(self.handle, bytes.as_ptr().cast::<c_void>(), bytes.len()) })
    }

    pub(crate) fn stats(&self) -> Answer {
        let json = buffer(|out| {
            // SAFETY: see `new`.
            unsafe { p3sched_scheduler_stats(self.handle, out) }
        })?;
        Ok(serde_json::from_slice(&json).unwrap())
    }
}

/// What a payload says, as JSON.
pub(crate) fn decode_kv_batch(payload: &[u8], sequence: u64) -> Result<Vec<u8>, Value> {
    buffer(|out| {
        // SAFETY: the payload and the place for the result live as long as the call.
        unsafe { p3sched_kv_batch_decode(payload.as_ptr().cast(), payload.len(), sequence, out) }
    })
}

/// The contents of the buffer that a function makes.
fn buffer(make: impl FnOnce(*mut *mut Buffer) -> Status) -> Result<Vec<u8>, Value> {
    let mut buffer = ptr::null_mut();
    check(make(&raw mut buffer))?;
    // SAFETY: the call succeeded, so the buffer is live; it is freed once, behind its last use.
    unsafe {
        let data = p3sched_buffer_data(buffer).cast::<u8>();
        let bytes = std::slice::from_raw_parts(data, p3sched_buffer_length(buffer)).to_vec();
        p3sched_buffer_free(buffer);
        Ok(bytes)
    }
}

/// What the functions say about a decision, which must be what its JSON says; frees it.
fn take_decision(decision: *mut Decision) -> Value {
    // SAFETY: the decision is live and freed once, behind its last use.
    unsafe {
        let whole: Value = serde_json::from_str(text_at(p3sched_decision_json(decision)).unwrap()).unwrap();
        let count = p3sched_decision_fallback_count(decision);
        let fallbacks: Vec<_> =
            (0..count).map(|at| text_at(p3sched_decision_fallback(decision, at)).unwrap()).collect();
        let mut said = json!({
            "id": p3sched_decision_id(decision),
            "endpoint": text_at(p3sched_decision_endpoint(decision)).unwrap(),
            "fallbacks": fallbacks,
            "matched_tokens": p3sched_decision_matched_tokens(decision),
            "prompt_tokens": p3sched_decision_prompt_tokens(decision),
        });
        if let Some(explanation) = text_at(p3sched_decision_explanation_json(decision)) {
            said["explanation"] = serde_json::from_str(explanation).unwrap();
        }
        assert_eq!(
            text_at(p3sched_decision_explanation_text(decision)).is_some(),
            said.get("explanation").is_some()
        );
        assert_eq!(said, whole);
        p3sched_decision_free(decision);
        whole
    }
}

fn kv_result(result: KvBatchResult) -> Value {
    match result.fate {
        KvBatchFate::Applied => json!({"type": "applied"}),
        KvBatchFate::Restarted => json!({"type": "restarted"}),
        KvBatchFate::Repeated => json!({"type": "repeated"}),
        KvBatchFate::Gap => json!({"type": "gap", "expected": result.expected}),
    }
}

pub(crate) fn check(status: Status) -> Result<(), Value> {
    if status == Status::Ok {
        return Ok(());
    }
    // SAFETY: both texts belong to the library and are read before its next call.
    let (code, message) =
        unsafe { (text_at(p3sched_status_name(status as i32)), text_at(p3sched_last_error_message())) };
    Err(json!({"code": code.unwrap(), "message": message.unwrap()}))
}

fn done(status: Status) -> Answer {
    check(status).map(|()| Value::Null)
}

pub(crate) fn c_text(text: &str) -> CString {
    CString::new(text).unwrap()
}

fn pointer(text: Option<&CString>) -> *const c_char {
    text.map_or(ptr::null(), |text| text.as_ptr())
}

fn c_labels(labels: &[(CString, CString)]) -> Vec<Label> {
    labels.iter().map(|(name, value)| Label { name: name.as_ptr(), value: value.as_ptr() }).collect()
}

fn endpoint(name: &CString, labels: &[Label]) -> EndpointDescription {
    EndpointDescription { name: name.as_ptr(), labels: labels.as_ptr(), label_count: labels.len() }
}

/// Options that say nothing.
pub(crate) fn no_options() -> PickOptions {
    PickOptions {
        adapter: ptr::null(),
        session: ptr::null(),
        subset: ptr::null(),
        subset_count: 0,
        priority: 0,
        explain: 0,
    }
}

fn chunks(body: &[u8]) -> Vec<Slice> {
    let slice = |bytes: &[u8]| Slice { data: bytes.as_ptr().cast(), length: bytes.len() };
    if body.len().is_multiple_of(2) {
        return vec![slice(body)];
    }
    let (first, rest) = body.split_at(body.len() / 3);
    let (second, third) = rest.split_at(1);
    [first, second, third].map(slice).into()
}

/// The text at a pointer, for as long as the caller knows it to live.
pub(crate) unsafe fn text_at<'a>(text: *const c_char) -> Option<&'a str> {
    // SAFETY: the functions of the library return NULL or a text that ends with NUL.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_str().unwrap())
}
