//! The scheduler's handle: its life, its endpoints, its time and its state.

use std::ffi::{c_char, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use p3sched::{Endpoint, SchedulerConfig};

use crate::buffer::Buffer;
use crate::ffi::{self, guard, into_handle};
use crate::status::{Failure, Status, json_failure};

/// Picks endpoints for requests. Any number of threads may use one at the same time.
pub struct Scheduler {
    pub(crate) core: p3sched::Scheduler,
    origin: Instant,
    set_time: AtomicU64,
}

/// A time for `p3sched_scheduler_set_time`: let the scheduler read a monotonic clock, as it does from the beginning.
pub const P3SCHED_OWN_CLOCK: u64 = u64::MAX;

/// A word about an endpoint, for display and for filters that select by label.
#[repr(C)]
pub struct Label {
    /// What it is about, for example `model`.
    pub name: *const c_char,
    /// The word.
    pub value: *const c_char,
}

/// One replica of a model server that can be picked.
#[repr(C)]
pub struct EndpointDescription {
    /// Where it is reached, `host:port`; also its name in every decision.
    pub name: *const c_char,
    /// Its labels; may be NULL if there are none.
    pub labels: *const Label,
    /// How many labels there are.
    pub label_count: usize,
}

impl Scheduler {
    pub(crate) fn new(core: p3sched::Scheduler) -> Self {
        Self { core, origin: Instant::now(), set_time: AtomicU64::new(P3SCHED_OWN_CLOCK) }
    }

    /// The time that the core is given, in nanoseconds.
    pub(crate) fn now(&self) -> u64 {
        match self.set_time.load(Ordering::Relaxed) {
            P3SCHED_OWN_CLOCK => u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX),
            time => time,
        }
    }
}

impl EndpointDescription {
    fn to_endpoint(&self) -> Result<Endpoint, Failure> {
        let mut endpoint = Endpoint::new(read!(text self.name));
        for label in read!(array self.labels, self.label_count) {
            endpoint.labels.insert(read!(text label.name).to_owned(), read!(text label.value).to_owned());
        }
        Ok(endpoint)
    }
}

/// Makes a scheduler without endpoints from a configuration in JSON (see the documentation of `SchedulerConfig`), for
/// example `{"preset": "latency", "fallbacks": 1}`; NULL and 0 take the defaults. The caller owns `*scheduler` and frees it
/// with `p3sched_scheduler_free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_scheduler_new(
    config: *const c_char,
    config_length: usize,
    scheduler: *mut *mut Scheduler,
) -> Status {
    guard(|| {
        let out = read!(output scheduler);
        let config = match read!(bytes config, config_length) {
            [] => SchedulerConfig::default(),
            json => serde_json::from_slice(json)
                .map_err(|error| json_failure(p3sched::Error::InvalidConfig, error))?,
        };
        out.write(into_handle(Scheduler::new(p3sched::Scheduler::new(config)?)));
        Ok(())
    })
}

/// Frees a scheduler, which no other thread may be using any more; NULL is fine. Decisions and buffers live on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_scheduler_free(scheduler: *mut Scheduler) {
    // SAFETY: the caller hands the scheduler back and does not use it any more, as the contract says.
    unsafe { ffi::free(scheduler) }
}

/// Adds an endpoint without labels; one of the same name keeps its state and loses its labels. `name` (`host:port`) is
/// copied.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_scheduler_add_endpoint(
    scheduler: *const Scheduler,
    name: *const c_char,
) -> Status {
    guard(|| {
        let scheduler = read!(borrow scheduler);
        Ok(scheduler.core.add_endpoint(Endpoint::new(read!(text name)))?)
    })
}

/// Adds an endpoint with labels; one of the same name keeps its state and takes the new labels. `endpoint` is copied.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_scheduler_add_labelled_endpoint(
    scheduler: *const Scheduler,
    endpoint: *const EndpointDescription,
) -> Status {
    guard(|| {
        let scheduler = read!(borrow scheduler);
        Ok(scheduler.core.add_endpoint(read!(borrow endpoint).to_endpoint()?)?)
    })
}

/// Removes an endpoint and everything that is known of it; its requests in flight end silently.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_scheduler_remove_endpoint(
    scheduler: *const Scheduler,
    name: *const c_char,
) -> Status {
    guard(|| {
        let scheduler = read!(borrow scheduler);
        Ok(scheduler.core.remove_endpoint(read!(text name))?)
    })
}

/// Makes these the only endpoints: adds the new ones, removes the missing ones, keeps what is known of the others. The
/// `count` descriptions at `endpoints` are copied.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_scheduler_set_endpoints(
    scheduler: *const Scheduler,
    endpoints: *const EndpointDescription,
    count: usize,
) -> Status {
    guard(|| {
        let scheduler = read!(borrow scheduler);
        let endpoints = read!(array endpoints, count).iter().map(EndpointDescription::to_endpoint);
        Ok(scheduler.core.set_endpoints(endpoints.collect::<Result<_, _>>()?)?)
    })
}

/// Sets the scheduler's time, in nanoseconds from any fixed origin, where it stays until the next call: for simulators and
/// tests. `P3SCHED_OWN_CLOCK` lets it read the clock again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_scheduler_set_time(scheduler: *const Scheduler, nanoseconds: u64) -> Status {
    guard(|| {
        read!(borrow scheduler).set_time.store(nanoseconds, Ordering::Relaxed);
        Ok(())
    })
}

/// Writes the configuration in force as JSON. The caller owns `*json` and frees it with `p3sched_buffer_free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_scheduler_config(
    scheduler: *const Scheduler,
    json: *mut *mut Buffer,
) -> Status {
    guard(|| {
        let (out, scheduler) = (read!(output json), read!(borrow scheduler));
        out.write(into_handle(Buffer::from_json(scheduler.core.config())?));
        Ok(())
    })
}

/// Writes a picture of the scheduler as JSON, for metrics and dashboards: endpoints, requests in flight, counters. The
/// caller owns `*json` and frees it with `p3sched_buffer_free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_scheduler_stats(
    scheduler: *const Scheduler,
    json: *mut *mut Buffer,
) -> Status {
    guard(|| {
        let (out, scheduler) = (read!(output json), read!(borrow scheduler));
        out.write(into_handle(Buffer::from_json(&scheduler.core.stats(scheduler.now()))?));
        Ok(())
    })
}

/// Writes the prefix index and the learned rates as bytes, for `p3sched_scheduler_restore` after a restart. The caller owns
/// `*snapshot` and frees it with `p3sched_buffer_free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_scheduler_snapshot(
    scheduler: *const Scheduler,
    snapshot: *mut *mut Buffer,
) -> Status {
    guard(|| {
        let (out, scheduler) = (read!(output snapshot), read!(borrow scheduler));
        out.write(into_handle(Buffer::from_bytes(scheduler.core.snapshot())));
        Ok(())
    })
}

/// Replaces the prefix index and the learned rates by those of a snapshot, before or after endpoints are added. The
/// `length` bytes at `snapshot` are copied.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_scheduler_restore(
    scheduler: *const Scheduler,
    snapshot: *const c_void,
    length: usize,
) -> Status {
    guard(|| {
        let scheduler = read!(borrow scheduler);
        Ok(scheduler.core.restore(read!(bytes snapshot, length))?)
    })
}
