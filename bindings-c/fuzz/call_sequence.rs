//! Bytes as a sequence of calls, with NULLs, wrong lengths and texts that are none, while handles come and go.

use std::ffi::{CStr, c_char, c_void};
use std::ptr;

use p3sched_c::*;

/// Handles of one kind that may be live at the same time.
const MAX_HANDLES: usize = 4;

/// What texts are: names, paths, JSON, and what is none of them. The first is no text at all.
const TEXTS: [&[u8]; 14] = [
    b"",
    b"\0",
    b"10.0.0.1:8000\0",
    b"10.0.0.2:8000\0",
    b"10.0.0.3:8000\0",
    b"\xff\xfe\0",
    b"/v1/chat/completions\0",
    b"/v1/completions\0",
    b"{\"preset\": \"latency\", \"fallbacks\": 2}\0",
    b"{\"model\": \"m\", \"prompt\": \"The same prompt again and again, long enough for two blocks of tokens. Once more: \"}\0",
    b"{\"model\": \"m\", \"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}\0",
    b"{\"waiting_requests\": 3, \"kv_cache_utilization\": 0.5}\0",
    b"vllm:num_requests_waiting 3.0\n\0",
    b"{\"type\": \"cleared\"}\0",
];

/// Makes the calls that the bytes stand for. Panics if a call breaks the contract of the header.
pub(crate) fn play(bytes: &[u8]) {
    let mut player = Player { left: bytes, ..Player::default() };
    while !player.left.is_empty() {
        player.call();
    }
    player.end();
}

#[derive(Default)]
struct Player<'a> {
    left: &'a [u8],
    schedulers: Vec<*mut Scheduler>,
    decisions: Vec<*mut Decision>,
    buffers: Vec<*mut Buffer>,
    scanners: Vec<*mut UsageScanner>,
    token_ids: Vec<u32>,
}

impl Player<'_> {
    fn call(&mut self) {
        match self.byte() % 8 {
            0 => self.begin(),
            1 | 2 => self.change_endpoints(),
            3 | 4 => self.pick(),
            5 => self.report(),
            6 => self.write_buffer(),
            _ => self.look_or_free(),
        }
    }

    fn begin(&mut self) {
        let (config, length) = self.bytes();
        if self.one_in(2) {
            // SAFETY: the configuration is NULL or has its length or one that is refused.
            let make = |out| unsafe { p3sched_scheduler_new(config.cast(), length, out) };
            self.make(|player| &mut player.schedulers, make);
        } else {
            // SAFETY: the only pointer is the one for the result.
            let make = |out| unsafe { p3sched_usage_scanner_new(out) };
            self.make(|player| &mut player.scanners, make);
        }
    }

    fn change_endpoints(&mut self) {
        let scheduler = self.scheduler();
        let label = Label { name: self.text(), value: self.text() };
        let label_count = usize::from(self.one_in(3));
        let endpoint = EndpointDescription { name: self.text(), labels: &raw const label, label_count };
        let pointer = if self.one_in(8) { ptr::null() } else { &raw const endpoint };
        let count = self.count(1);
        // SAFETY: handles are live or NULL, and every pointer is NULL or has its length or one that is refused.
        allowed(unsafe {
            match self.byte() % 4 {
                0 => p3sched_scheduler_add_endpoint(scheduler, endpoint.name),
                1 => p3sched_scheduler_add_labelled_endpoint(scheduler, pointer),
                2 => p3sched_scheduler_remove_endpoint(scheduler, endpoint.name),
                _ => p3sched_scheduler_set_endpoints(scheduler, pointer, count),
            }
        });
    }

    fn pick(&mut self) {
        let scheduler = self.scheduler();
        let subset = [self.text(), self.text()];
        let options = PickOptions {
            adapter: self.text(),
            session: self.text(),
            subset: if self.one_in(4) { subset.as_ptr() } else { ptr::null() },
            subset_count: self.count(2),
            priority: i32::from(self.byte()) - 128,
            explain: i32::from(self.byte() % 2),
        };
        let given = if self.one_in(4) { ptr::null() } else { &raw const options };
        let (path, how) = (self.text(), self.byte());
        let chunks = [self.bytes(), self.bytes()].map(|(data, length)| Slice { data, length });
        let pieces = if self.one_in(8) { ptr::null() } else { chunks.as_ptr() };
        let count = self.count(2);
        let request = self.request(options);
        let whole = if self.one_in(8) { ptr::null() } else { &raw const request };
        self.make(
            |player| &mut player.decisions,
            |out| {
                // SAFETY: handles are live or NULL, and every pointer is NULL or has its length or one that is refused.
                unsafe {
                    match how % 4 {
                        0 => p3sched_scheduler_pick(scheduler, whole, out),
                        1 => p3sched_scheduler_explain(scheduler, whole, out),
                        2 => p3sched_scheduler_explain_body(scheduler, path, pieces, count, given, out),
                        _ => p3sched_scheduler_pick_body(scheduler, path, pieces, count, given, out),
                    }
                }
            },
        );
    }

    fn request(&mut self, options: PickOptions) -> PickRequest {
        let (text, text_length) = self.bytes();
        self.token_ids = (0..u32::from(self.byte())).collect();
        let token_count = self.count(self.token_ids.len());
        let with_tokens = self.one_in(2);
        PickRequest {
            model: self.text(),
            cache_salt: self.text(),
            text: if with_tokens { ptr::null() } else { text },
            text_length,
            token_ids: if with_tokens { self.token_ids.as_ptr() } else { ptr::null() },
            token_count,
            options,
        }
    }

    fn report(&mut self) {
        let (scheduler, endpoint, (bytes, length)) = (self.scheduler(), self.text(), self.bytes());
        let (id, number) = (u64::from(self.byte() % 8), u64::from(self.byte()));
        let mut result = KvBatchResult { fate: KvBatchFate::Gap, expected: 77 };
        let tokens = TokenCount { is_known: i32::from(self.byte() % 2), tokens: u32::from(self.byte()) };
        let outcome = RequestOutcome {
            success: i32::from(self.byte() % 2),
            prompt_tokens: tokens,
            completion_tokens: tokens,
            cached_tokens: tokens,
            served_by: self.text(),
        };
        let outcome = if self.one_in(2) { ptr::null() } else { &raw const outcome };
        let out = if self.one_in(8) { ptr::null_mut() } else { &raw mut result };
        let scanner = self.scanners.last().copied().unwrap_or(ptr::null_mut());
        // SAFETY: handles are live or NULL, and every pointer is NULL or has its length or one that is refused.
        allowed(unsafe {
            match self.byte() % 13 {
                0 => p3sched_scheduler_first_token(scheduler, id),
                1 | 2 => p3sched_scheduler_complete(scheduler, id, outcome),
                3 => p3sched_scheduler_ingest_metrics(scheduler, endpoint, bytes, length),
                4 => p3sched_scheduler_observe(scheduler, endpoint, bytes.cast(), length),
                5 => p3sched_scheduler_ingest_load_header(scheduler, endpoint, bytes.cast(), length),
                6 => p3sched_scheduler_scrape_failed(scheduler, endpoint, id as u32 % 3),
                7 => p3sched_scheduler_apply_kv_event(scheduler, endpoint, bytes.cast(), length),
                8 => p3sched_scheduler_apply_kv_batch(scheduler, endpoint, bytes.cast(), length, out),
                9 => p3sched_scheduler_apply_kv_payload(scheduler, endpoint, bytes, length, number, out),
                10 => p3sched_scheduler_resume_kv_events(scheduler, endpoint, id as u32, number),
                11 => p3sched_scheduler_set_time(scheduler, number << 32),
                _ => p3sched_usage_scanner_push(scanner, bytes, length),
            }
        });
    }

    fn write_buffer(&mut self) {
        let (scheduler, (bytes, length), how) = (self.scheduler(), self.bytes(), self.byte());
        self.make(
            |player| &mut player.buffers,
            |out| {
                // SAFETY: handles are live or NULL, and every pointer is NULL or has its length or one that is refused.
                unsafe {
                    match how % 4 {
                        0 => p3sched_scheduler_config(scheduler, out),
                        1 => p3sched_scheduler_stats(scheduler, out),
                        2 => p3sched_scheduler_snapshot(scheduler, out),
                        _ => p3sched_kv_batch_decode(bytes, length, u64::from(how), out),
                    }
                }
            },
        );
    }

    fn look_or_free(&mut self) {
        let at = usize::from(self.byte());
        // SAFETY: what is looked at is live or NULL; what is freed was taken out of its list before.
        unsafe {
            match self.byte() % 8 {
                0 => p3sched_scheduler_free(take(&mut self.schedulers, at)),
                1 | 2 => p3sched_decision_free(take(&mut self.decisions, at)),
                3 => p3sched_buffer_free(take(&mut self.buffers, at)),
                4 => p3sched_usage_scanner_free(take(&mut self.scanners, at)),
                5 => look_at(self.decisions.get(at % MAX_HANDLES).copied().unwrap_or(ptr::null_mut())),
                6 => {
                    let buffer = self.buffers.get(at % MAX_HANDLES).copied().unwrap_or(ptr::null_mut());
                    let (data, length) = (p3sched_buffer_data(buffer), p3sched_buffer_length(buffer));
                    allowed(p3sched_scheduler_restore(self.scheduler(), data.cast(), length));
                }
                _ => {
                    let mut usage = std::mem::MaybeUninit::uninit();
                    let scanner = self.scanners.last().copied().unwrap_or(ptr::null_mut());
                    allowed(p3sched_usage_scanner_finish(scanner, usage.as_mut_ptr()));
                }
            }
        }
    }

    /// Calls a function that makes a handle, and checks that it writes one only if it says so.
    fn make<T>(
        &mut self,
        list: impl Fn(&mut Self) -> &mut Vec<*mut T>,
        function: impl FnOnce(*mut *mut T) -> Status,
    ) {
        if list(self).len() == MAX_HANDLES {
            return;
        }
        let unwritten = ptr::without_provenance_mut(usize::MAX);
        let mut handle = unwritten;
        let nowhere = self.one_in(16);
        let status = function(if nowhere { ptr::null_mut() } else { &raw mut handle });
        allowed(status);
        assert_eq!(handle != unwritten, status == Status::Ok, "an output is written on success only");
        if status == Status::Ok {
            list(self).push(handle);
        }
    }

    fn end(mut self) {
        // SAFETY: every handle is taken out of its list and freed once; NULL ends the list.
        unsafe {
            while let Some(handle) = self.schedulers.pop() {
                p3sched_scheduler_free(handle);
            }
            while let Some(handle) = self.decisions.pop() {
                look_at(handle);
                p3sched_decision_free(handle);
            }
            while let Some(handle) = self.buffers.pop() {
                assert_eq!(p3sched_buffer_data(handle).add(p3sched_buffer_length(handle)).read(), 0);
                p3sched_buffer_free(handle);
            }
            while let Some(handle) = self.scanners.pop() {
                p3sched_usage_scanner_free(handle);
            }
        }
    }

    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.left.split_first() else { return 1 };
        self.left = rest;
        first
    }

    fn one_in(&mut self, times: u8) -> bool {
        self.byte().is_multiple_of(times)
    }

    /// A live scheduler, or NULL.
    fn scheduler(&mut self) -> *mut Scheduler {
        let at = usize::from(self.byte()) % (self.schedulers.len() * 4 + 1);
        self.schedulers.get(at / 4).copied().unwrap_or(ptr::null_mut())
    }

    /// A text that ends with NUL, or NULL.
    fn text(&mut self) -> *const c_char {
        let text = TEXTS[usize::from(self.byte()) % TEXTS.len()];
        if text.is_empty() { ptr::null() } else { text.as_ptr().cast() }
    }

    /// Bytes with a length that is right, too short, or larger than any memory; or NULL with any length.
    fn bytes(&mut self) -> (*const c_void, usize) {
        let text = TEXTS[usize::from(self.byte()) % TEXTS.len()];
        let bytes = if self.one_in(4) { self.left } else { text.strip_suffix(b"\0").unwrap_or(text) };
        let length = self.count(bytes.len());
        (if text.is_empty() { ptr::null() } else { bytes.as_ptr().cast() }, length)
    }

    /// How many of so many elements: mostly all, sometimes fewer or more than any memory has.
    fn count(&mut self, right: usize) -> usize {
        match self.byte() % 8 {
            0 => 0,
            1 => right / 2,
            2 => usize::MAX,
            3 => isize::MAX.unsigned_abs() + 1,
            _ => right,
        }
    }
}

/// Reads everything that a decision says.
unsafe fn look_at(decision: *mut Decision) {
    // SAFETY: the decision is live or NULL, and its texts live as long as it.
    unsafe {
        for text in [
            p3sched_decision_endpoint(decision),
            p3sched_decision_fallback(decision, 0),
            p3sched_decision_fallback(decision, usize::MAX),
            p3sched_decision_json(decision),
            p3sched_decision_explanation_json(decision),
            p3sched_decision_explanation_text(decision),
        ] {
            assert!(text.is_null() || CStr::from_ptr(text).to_str().is_ok());
        }
        assert!(p3sched_decision_matched_tokens(decision) <= p3sched_decision_prompt_tokens(decision));
        assert_eq!(decision.is_null(), p3sched_decision_endpoint(decision).is_null());
        assert!(p3sched_decision_id(decision) < 1 << 53);
    }
}

/// Every status has a name and every failure a message; none is a defect.
fn allowed(status: Status) {
    // SAFETY: both texts belong to the library and are read before its next call.
    let (name, message) = unsafe {
        (CStr::from_ptr(p3sched_status_name(status as i32)), CStr::from_ptr(p3sched_last_error_message()))
    };
    assert!(name != c"Unknown" && status != Status::Panic && status != Status::Other, "{message:?}");
    assert!(status == Status::Ok || !message.is_empty());
}

/// Takes a handle out of its list; NULL if there is none there.
fn take<T>(handles: &mut Vec<*mut T>, at: usize) -> *mut T {
    let at = at % MAX_HANDLES;
    if at < handles.len() { handles.swap_remove(at) } else { ptr::null_mut() }
}
