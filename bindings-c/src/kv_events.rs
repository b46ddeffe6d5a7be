//! What engines report about their KV caches.

use std::ffi::{c_char, c_void};

use p3sched::{KvBatchOutcome, KvEvent, KvEventBatch};
use serde::de::DeserializeOwned;

use crate::buffer::Buffer;
use crate::ffi::{guard, into_handle};
use crate::scheduler::Scheduler;
use crate::status::{Failure, Status, json_failure};

/// What became of a batch of KV events.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvBatchFate {
    /// Its events were applied.
    Applied = 0,
    /// The engine has restarted: what the rank held was forgotten, then the events were applied.
    Restarted = 1,
    /// It came before; nothing was changed.
    Repeated = 2,
    /// Batches are missing; nothing was applied. Ask the engine to replay from `expected` on and apply that in its order;
    /// where it cannot, call `p3sched_scheduler_resume_kv_events`.
    Gap = 3,
}

/// What became of a batch of KV events, and where its stream goes on.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvBatchResult {
    /// What became of it.
    pub fate: KvBatchFate,
    /// After a gap: the sequence number that would have come next; else 0.
    pub expected: u64,
}

impl KvBatchResult {
    fn new(outcome: KvBatchOutcome) -> Result<Self, Failure> {
        let (fate, expected) = match outcome {
            KvBatchOutcome::Applied => (KvBatchFate::Applied, 0),
            KvBatchOutcome::Restarted => (KvBatchFate::Restarted, 0),
            KvBatchOutcome::Repeated => (KvBatchFate::Repeated, 0),
            KvBatchOutcome::Gap { expected } => (KvBatchFate::Gap, expected),
            unknown => return Err(Failure::other(format!("a fate without a number: `{unknown:?}`"))),
        };
        Ok(Self { fate, expected })
    }
}

fn from_json<T: DeserializeOwned>(json: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(json).map_err(|error| json_failure(p3sched::Error::InvalidKvEvent, error))
}

/// Applies one event of an endpoint's engine, as JSON (see the documentation of `KvEvent`), outside of any numbered stream.
/// The `length` bytes at `json` are only read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_scheduler_apply_kv_event(
    scheduler: *const Scheduler,
    endpoint: *const c_char,
    json: *const c_char,
    length: usize,
) -> Status {
    guard(|| {
        let (scheduler, endpoint) = (read!(borrow scheduler), read!(text endpoint));
        let event: KvEvent = from_json(read!(bytes json, length))?;
        Ok(scheduler.core.apply_kv_event(endpoint, &event, scheduler.now())?)
    })
}

/// Applies a batch of the numbered stream that an endpoint's engine publishes, as JSON (see the documentation of
/// `KvEventBatch`). The `length` bytes at `json` are only read; `*result` is a plain value.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_scheduler_apply_kv_batch(
    scheduler: *const Scheduler,
    endpoint: *const c_char,
    json: *const c_char,
    length: usize,
    result: *mut KvBatchResult,
) -> Status {
    guard(|| {
        let out = read!(output result);
        let (scheduler, endpoint) = (read!(borrow scheduler), read!(text endpoint));
        let batch: KvEventBatch = from_json(read!(bytes json, length))?;
        let outcome = scheduler.core.apply_kv_batch(endpoint, &batch, scheduler.now())?;
        out.write(KvBatchResult::new(outcome)?);
        Ok(())
    })
}

/// Applies a batch as vLLM or SGLang published it: its payload in `MessagePack` and the sequence number that came beside it.
/// The `length` bytes at `payload` are only read; `*result` is a plain value.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_scheduler_apply_kv_payload(
    scheduler: *const Scheduler,
    endpoint: *const c_char,
    payload: *const c_void,
    length: usize,
    sequence: u64,
    result: *mut KvBatchResult,
) -> Status {
    guard(|| {
        let out = read!(output result);
        let (scheduler, endpoint) = (read!(borrow scheduler), read!(text endpoint));
        let batch = KvEventBatch::decode(read!(bytes payload, length), sequence)?;
        let outcome = scheduler.core.apply_kv_batch(endpoint, &batch, scheduler.now())?;
        out.write(KvBatchResult::new(outcome)?);
        Ok(())
    })
}

/// Goes on after missing batches that cannot be replayed: forgets what the rank holds and expects the batch `next`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_scheduler_resume_kv_events(
    scheduler: *const Scheduler,
    endpoint: *const c_char,
    rank: u32,
    next: u64,
) -> Status {
    guard(|| {
        let (scheduler, endpoint) = (read!(borrow scheduler), read!(text endpoint));
        Ok(scheduler.core.resume_kv_events(endpoint, rank, next)?)
    })
}

/// Writes what a payload of vLLM or SGLang says as JSON, the form that `p3sched_scheduler_apply_kv_batch` reads. The
/// `length` bytes at `payload` are only read; the caller owns `*json` and frees it with `p3sched_buffer_free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_kv_batch_decode(
    payload: *const c_void,
    length: usize,
    sequence: u64,
    json: *mut *mut Buffer,
) -> Status {
    guard(|| {
        let out = read!(output json);
        let batch = KvEventBatch::decode(read!(bytes payload, length), sequence)?;
        out.write(into_handle(Buffer::from_json(&batch)?));
        Ok(())
    })
}
