//! Envoy's C ABI for HTTP filters, as far as it is used here, and safe wrappers of it.
//!
//! Names, layouts and numbers are those of `abi.h` in Envoy 1.38.3, 1.39.3 and 1.40.0; only functions that all three export are
//! declared. Every handle is valid during the hook that Envoy passed it to, and memory that Envoy lends is too, until
//! something is set: hence reading borrows a wrapper, and setting borrows it mutably.
#![expect(unsafe_code, reason = "this is the boundary to Envoy")]

use std::ffi::c_void;
use std::marker::PhantomData;

use crate::gateway::{Counter, Gateway, PICK_TIME, Side};
use p3sched::gateway::{DROPPED_REASON, Refusal, SUBSET, SUBSET_NAMESPACE, subset_entries};

/// `envoy_dynamic_module_type_envoy_buffer` and `…_module_buffer`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Buffer {
    pointer: *const u8,
    length: usize,
}

impl Buffer {
    const NULL: Self = Self { pointer: std::ptr::null(), length: 0 };

    fn of(bytes: &[u8]) -> Self {
        Self { pointer: bytes.as_ptr(), length: bytes.len() }
    }

    /// # Safety
    ///
    /// A buffer that is not null points to that many bytes, which stay as they are for `'a`.
    pub(crate) unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.pointer.is_null() || self.length == 0 {
            return &[];
        }
        // SAFETY: not null; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.pointer, self.length) }
    }
}

/// `envoy_dynamic_module_type_envoy_http_header` and `…_module_http_header`: four words.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Header {
    name: Buffer,
    value: Buffer,
}

impl Header {
    const NULL: Self = Self { name: Buffer::NULL, value: Buffer::NULL };

    fn of(name: &str, value: &str) -> Self {
        Self { name: Buffer::of(name.as_bytes()), value: Buffer::of(value.as_bytes()) }
    }

    /// # Safety
    ///
    /// As for [`Buffer::bytes`].
    pub(crate) unsafe fn parts<'a>(self) -> (&'a [u8], &'a [u8]) {
        // SAFETY: the caller's promise.
        unsafe { (self.name.bytes(), self.value.bytes()) }
    }
}

/// `envoy_dynamic_module_type_http_header_type`.
const REQUEST_HEADERS: u32 = 0;
const RESPONSE_HEADERS: u32 = 2;

/// `envoy_dynamic_module_type_http_body_type`.
const RECEIVED_REQUEST_BODY: u32 = 0;
const BUFFERED_REQUEST_BODY: u32 = 1;
const RECEIVED_RESPONSE_BODY: u32 = 2;

/// `envoy_dynamic_module_type_metadata_source`.
const DYNAMIC_METADATA: u32 = 0;

/// `envoy_dynamic_module_type_attribute_id`: `upstream.address`.
const UPSTREAM_ADDRESS: u32 = 41;

/// What `…_define_…` and `…_http_callout` return for success.
const SUCCESS: u32 = 0;

/// `envoy_dynamic_module_type_log_level`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LogLevel {
    Warning = 3,
    Error = 4,
}

type Env = *mut c_void;

unsafe extern "C" {
    fn envoy_dynamic_module_callback_log(level: u32, message: Buffer);
    fn envoy_dynamic_module_callback_is_validation_mode() -> bool;
    fn envoy_dynamic_module_callback_http_get_headers_size(env: Env, kind: u32) -> usize;
    fn envoy_dynamic_module_callback_http_get_headers(env: Env, kind: u32, headers: *mut Header) -> bool;
    fn envoy_dynamic_module_callback_http_set_header(
        env: Env,
        kind: u32,
        name: Buffer,
        value: Buffer,
    ) -> bool;
    fn envoy_dynamic_module_callback_http_get_body_size(env: Env, kind: u32) -> usize;
    fn envoy_dynamic_module_callback_http_get_body_chunks_size(env: Env, kind: u32) -> usize;
    fn envoy_dynamic_module_callback_http_get_body_chunks(env: Env, kind: u32, chunks: *mut Buffer) -> bool;
    fn envoy_dynamic_module_callback_http_received_buffered_request_body(env: Env) -> bool;
    fn envoy_dynamic_module_callback_http_get_buffer_limit(env: Env) -> u64;
    fn envoy_dynamic_module_callback_http_set_buffer_limit(env: Env, limit: u64);
    fn envoy_dynamic_module_callback_http_set_upstream_override_host(
        env: Env,
        host: Buffer,
        strict: bool,
    ) -> bool;
    fn envoy_dynamic_module_callback_http_set_dynamic_metadata_string(
        env: Env,
        namespace: Buffer,
        key: Buffer,
        value: Buffer,
    );
    fn envoy_dynamic_module_callback_http_set_dynamic_metadata_number(
        env: Env,
        namespace: Buffer,
        key: Buffer,
        value: f64,
    );
    fn envoy_dynamic_module_callback_http_get_metadata_string(
        env: Env,
        source: u32,
        namespace: Buffer,
        key: Buffer,
        value: *mut Buffer,
    ) -> bool;
    fn envoy_dynamic_module_callback_http_get_metadata_list_size(
        env: Env,
        source: u32,
        namespace: Buffer,
        key: Buffer,
        size: *mut usize,
    ) -> bool;
    fn envoy_dynamic_module_callback_http_get_metadata_list_string(
        env: Env,
        source: u32,
        namespace: Buffer,
        key: Buffer,
        index: usize,
        value: *mut Buffer,
    ) -> bool;
    fn envoy_dynamic_module_callback_http_filter_get_attribute_string(
        env: Env,
        attribute: u32,
        value: *mut Buffer,
    ) -> bool;
    fn envoy_dynamic_module_callback_http_send_response(
        env: Env,
        status: u32,
        headers: *const Header,
        header_count: usize,
        body: Buffer,
        details: Buffer,
    );
    fn envoy_dynamic_module_callback_http_filter_increment_counter(
        env: Env,
        id: usize,
        labels: *const Buffer,
        label_count: usize,
        by: u64,
    ) -> u32;
    fn envoy_dynamic_module_callback_http_filter_record_histogram_value(
        env: Env,
        id: usize,
        labels: *const Buffer,
        label_count: usize,
        value: u64,
    ) -> u32;
    fn envoy_dynamic_module_callback_http_filter_config_define_counter(
        config: Env,
        name: Buffer,
        labels: *const Buffer,
        label_count: usize,
        id: *mut usize,
    ) -> u32;
    fn envoy_dynamic_module_callback_http_filter_config_define_histogram(
        config: Env,
        name: Buffer,
        labels: *const Buffer,
        label_count: usize,
        id: *mut usize,
    ) -> u32;
    fn envoy_dynamic_module_callback_http_filter_config_http_callout(
        config: Env,
        id: *mut u64,
        cluster: Buffer,
        headers: *const Header,
        header_count: usize,
        body: Buffer,
        timeout_milliseconds: u64,
    ) -> u32;
    fn envoy_dynamic_module_callback_http_filter_config_scheduler_new(config: Env) -> *mut c_void;
    fn envoy_dynamic_module_callback_http_filter_config_scheduler_commit(scheduler: *mut c_void, event: u64);
    fn envoy_dynamic_module_callback_http_filter_config_scheduler_delete(scheduler: *mut c_void);
}

/// Writes a line into Envoy's log.
pub(crate) fn log(level: LogLevel, message: &str) {
    // SAFETY: Envoy copies the message during the call.
    unsafe { envoy_dynamic_module_callback_log(level as u32, Buffer::of(message.as_bytes())) }
}

/// The numbers that Envoy gave to the counters and to the histogram.
#[derive(Debug)]
pub(crate) struct StatIds {
    counters: [Option<usize>; Counter::ALL.len()],
    pick_time: Option<usize>,
}

/// A filter configuration, on the main thread.
pub(crate) struct ConfigHandle<'hook> {
    env: Env,
    hook: PhantomData<&'hook mut ()>,
}

impl ConfigHandle<'_> {
    /// # Safety
    ///
    /// `env` is the configuration that Envoy passed to a hook on the main thread that lasts longer than the wrapper.
    pub(crate) unsafe fn new(env: Env) -> Self {
        Self { env, hook: PhantomData }
    }

    /// Whether Envoy only checks its configuration.
    pub(crate) fn only_validates(&self) -> bool {
        // SAFETY: called on the main thread, as it has to be.
        unsafe { envoy_dynamic_module_callback_is_validation_mode() }
    }

    /// Defines all counters and the histogram; only while the configuration is made.
    pub(crate) fn define_stats(&mut self) -> StatIds {
        let define_counter = envoy_dynamic_module_callback_http_filter_config_define_counter;
        let define_histogram = envoy_dynamic_module_callback_http_filter_config_define_histogram;
        let define = |function: unsafe extern "C" fn(_, _, _, _, _) -> u32, name: &str| {
            let mut id = 0usize;
            // SAFETY: the handle is valid, there are no labels, and Envoy copies the name during the call.
            let result = unsafe {
                function(
                    self.env,
                    Buffer::of(name.as_bytes()),
                    std::ptr::null::<Buffer>(),
                    0usize,
                    &raw mut id,
                )
            };
            (result == SUCCESS).then_some(id)
        };
        StatIds {
            counters: Counter::ALL.map(|counter| define(define_counter, counter.name())),
            pick_time: define(define_histogram, PICK_TIME),
        }
    }

    /// Sends a GET through a cluster; its number, or `None` if it cannot be sent. The answer may come before this returns.
    pub(crate) fn get(
        &mut self,
        cluster: &str,
        headers: &[(&str, &str)],
        timeout_milliseconds: u64,
    ) -> Option<u64> {
        let headers: Vec<Header> = headers.iter().map(|(name, value)| Header::of(name, value)).collect();
        let mut id = 0;
        // SAFETY: the handle is valid; Envoy copies cluster and headers during the call.
        let result = unsafe {
            envoy_dynamic_module_callback_http_filter_config_http_callout(
                self.env,
                &raw mut id,
                Buffer::of(cluster.as_bytes()),
                headers.as_ptr(),
                headers.len(),
                Buffer::NULL,
                timeout_milliseconds,
            )
        };
        (result == SUCCESS).then_some(id)
    }

    /// Something that other threads can wake the main thread with.
    pub(crate) fn waker(&mut self) -> Waker {
        // SAFETY: the handle is valid; the waker deletes what this makes.
        Waker(unsafe { envoy_dynamic_module_callback_http_filter_config_scheduler_new(self.env) })
    }
}

/// Calls the hook `…_config_scheduled` on the main thread, from any thread.
pub(crate) struct Waker(*mut c_void);

// SAFETY: Envoy documents that events may be committed from any thread; the rest of the object is a weak pointer, whose
// count is atomic.
unsafe impl Send for Waker {}

impl Waker {
    pub(crate) fn wake(&self) {
        // SAFETY: the pointer is Envoy's and lives until `drop`; it does nothing once the configuration is gone.
        unsafe { envoy_dynamic_module_callback_http_filter_config_scheduler_commit(self.0, 0) }
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        // SAFETY: made by `…_scheduler_new` and deleted only here.
        unsafe { envoy_dynamic_module_callback_http_filter_config_scheduler_delete(self.0) }
    }
}

/// One request, on the worker that owns it.
pub(crate) struct FilterHandle<'hook> {
    env: Env,
    stats: &'hook StatIds,
}

impl<'hook> FilterHandle<'hook> {
    /// # Safety
    ///
    /// `env` is the filter that Envoy passed to a hook that lasts longer than the wrapper, on the same thread.
    pub(crate) unsafe fn new(env: Env, stats: &'hook StatIds) -> Self {
        Self { env, stats }
    }

    fn chunks(&self, kind: u32) -> Vec<Buffer> {
        // SAFETY: the handle is valid.
        let count = unsafe { envoy_dynamic_module_callback_http_get_body_chunks_size(self.env, kind) };
        let mut chunks = vec![Buffer::NULL; count];
        // SAFETY: the handle is valid, and there is room for as many chunks as Envoy has.
        let is_there = count > 0
            && unsafe {
                envoy_dynamic_module_callback_http_get_body_chunks(self.env, kind, chunks.as_mut_ptr())
            };
        if !is_there {
            chunks.clear();
        }
        chunks
    }

    /// Where the request's body is: what came with this hook may be what was held before.
    fn request_body_parts(&self) -> &'static [u32] {
        // SAFETY: the handle is valid.
        if unsafe { envoy_dynamic_module_callback_http_received_buffered_request_body(self.env) } {
            return &[BUFFERED_REQUEST_BODY];
        }
        &[BUFFERED_REQUEST_BODY, RECEIVED_REQUEST_BODY]
    }
}

impl Gateway for FilterHandle<'_> {
    fn headers(&self, side: Side) -> impl Iterator<Item = (&[u8], &[u8])> {
        let kind = match side {
            Side::Request => REQUEST_HEADERS,
            Side::Response => RESPONSE_HEADERS,
        };
        // SAFETY: the handle is valid.
        let count = unsafe { envoy_dynamic_module_callback_http_get_headers_size(self.env, kind) };
        let mut headers = vec![Header::NULL; count];
        // SAFETY: the handle is valid, and there is room for as many headers as Envoy has.
        let is_there =
            unsafe { envoy_dynamic_module_callback_http_get_headers(self.env, kind, headers.as_mut_ptr()) };
        if !is_there {
            headers.clear();
        }
        // SAFETY: Envoy's memory stays as it is until something is set, which the borrow of `self` rules out.
        headers.into_iter().map(|header| unsafe { header.parts() })
    }

    fn request_body(&self) -> impl Iterator<Item = &[u8]> {
        let chunks = self.request_body_parts().iter().flat_map(|kind| self.chunks(*kind));
        // SAFETY: as for the headers.
        chunks.map(|chunk| unsafe { chunk.bytes() })
    }

    fn request_body_length(&self) -> u64 {
        let parts = self.request_body_parts().iter();
        // SAFETY: the handle is valid.
        let lengths =
            parts.map(|kind| unsafe { envoy_dynamic_module_callback_http_get_body_size(self.env, *kind) });
        lengths.sum::<usize>() as u64
    }

    fn response_chunk(&self) -> impl Iterator<Item = &[u8]> {
        // SAFETY: as for the headers.
        self.chunks(RECEIVED_RESPONSE_BODY).into_iter().map(|chunk| unsafe { chunk.bytes() })
    }

    fn subset_hint(&self) -> Option<Vec<String>> {
        let (namespace, key) = (Buffer::of(SUBSET_NAMESPACE.as_bytes()), Buffer::of(SUBSET.as_bytes()));
        let mut value = Buffer::NULL;
        // SAFETY: the handle is valid, and so are namespace, key and the place of the value.
        let is_text = unsafe {
            envoy_dynamic_module_callback_http_get_metadata_string(
                self.env,
                DYNAMIC_METADATA,
                namespace,
                key,
                &raw mut value,
            )
        };
        if is_text {
            // SAFETY: as for the headers.
            return Some(subset_entries(unsafe { value.bytes() }));
        }
        let mut count = 0;
        // SAFETY: as above.
        let is_list = unsafe {
            envoy_dynamic_module_callback_http_get_metadata_list_size(
                self.env,
                DYNAMIC_METADATA,
                namespace,
                key,
                &raw mut count,
            )
        };
        let entries = (0..count).flat_map(|index| {
            // SAFETY: as above; the index is below the count.
            let is_text = unsafe {
                envoy_dynamic_module_callback_http_get_metadata_list_string(
                    self.env,
                    DYNAMIC_METADATA,
                    namespace,
                    key,
                    index,
                    &raw mut value,
                )
            };
            // SAFETY: as for the headers.
            if is_text { subset_entries(unsafe { value.bytes() }) } else { Vec::new() }
        });
        is_list.then(|| entries.collect())
    }

    fn served_by(&self) -> Option<String> {
        let mut value = Buffer::NULL;
        // SAFETY: the handle and the place of the value are valid.
        let is_known = unsafe {
            envoy_dynamic_module_callback_http_filter_get_attribute_string(
                self.env,
                UPSTREAM_ADDRESS,
                &raw mut value,
            )
        };
        // SAFETY: as for the headers.
        is_known.then(|| String::from_utf8_lossy(unsafe { value.bytes() }).into_owned())
    }

    fn raise_body_limit(&mut self, bytes: u64) {
        // SAFETY: the handle is valid.
        let limit = unsafe { envoy_dynamic_module_callback_http_get_buffer_limit(self.env) };
        // 0 means that there is none.
        if limit > 0 && limit < bytes {
            // SAFETY: the handle is valid.
            unsafe { envoy_dynamic_module_callback_http_set_buffer_limit(self.env, bytes) }
        }
    }

    fn set_request_header(&mut self, name: &str, value: Option<&str>) {
        let value = value.map_or(Buffer::NULL, |value| Buffer::of(value.as_bytes()));
        // SAFETY: the handle is valid; Envoy copies name and value during the call, and a null value removes the header.
        let _is_there = unsafe {
            envoy_dynamic_module_callback_http_set_header(
                self.env,
                REQUEST_HEADERS,
                Buffer::of(name.as_bytes()),
                value,
            )
        };
    }

    fn override_host(&mut self, host: &str) {
        // Not strict: a host that has just left the cluster leaves the choice to Envoy.
        // SAFETY: the handle is valid; Envoy copies the host during the call.
        let _is_address = unsafe {
            envoy_dynamic_module_callback_http_set_upstream_override_host(
                self.env,
                Buffer::of(host.as_bytes()),
                false,
            )
        };
    }

    fn set_text(&mut self, namespace: &str, key: &str, value: &str) {
        // SAFETY: the handle is valid; Envoy copies the texts during the call.
        unsafe {
            envoy_dynamic_module_callback_http_set_dynamic_metadata_string(
                self.env,
                Buffer::of(namespace.as_bytes()),
                Buffer::of(key.as_bytes()),
                Buffer::of(value.as_bytes()),
            );
        }
    }

    fn set_number(&mut self, namespace: &str, key: &str, value: f64) {
        // SAFETY: as for texts.
        unsafe {
            envoy_dynamic_module_callback_http_set_dynamic_metadata_number(
                self.env,
                Buffer::of(namespace.as_bytes()),
                Buffer::of(key.as_bytes()),
                value,
            );
        }
    }

    fn refuse(&mut self, refusal: &Refusal) {
        let headers: Vec<Header> =
            refusal.reason.map(|reason| Header::of(DROPPED_REASON, reason)).into_iter().collect();
        // SAFETY: the handle is valid; Envoy copies headers, body and details during the call.
        unsafe {
            envoy_dynamic_module_callback_http_send_response(
                self.env,
                refusal.status.into(),
                headers.as_ptr(),
                headers.len(),
                Buffer::of(refusal.body().as_bytes()),
                Buffer::of(b"p3sched"),
            );
        }
    }

    fn count(&mut self, counter: Counter, by: u64) {
        let Some(id) = self.stats.counters.get(counter as usize).copied().flatten() else { return };
        if by > 0 {
            // SAFETY: the handle is valid and its configuration defined this counter, without labels.
            let _result = unsafe {
                envoy_dynamic_module_callback_http_filter_increment_counter(
                    self.env,
                    id,
                    std::ptr::null(),
                    0,
                    by,
                )
            };
        }
    }

    fn record_pick_time(&mut self, nanoseconds: u64) {
        let Some(id) = self.stats.pick_time else { return };
        // SAFETY: as for counters.
        let _result = unsafe {
            envoy_dynamic_module_callback_http_filter_record_histogram_value(
                self.env,
                id,
                std::ptr::null(),
                0,
                nanoseconds,
            )
        };
    }
}
