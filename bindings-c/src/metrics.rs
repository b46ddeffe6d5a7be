//! What engines report about their load.

use std::ffi::{c_char, c_void};

use p3sched::EndpointMetrics;

use crate::ffi::guard;
use crate::scheduler::Scheduler;
use crate::status::{Failure, Status, json_failure};

/// Why a scrape of an engine's metrics brought nothing.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScrapeFailure {
    /// Nobody listens (connection refused): the endpoint is out at once, and its cache is gone.
    Unreachable = 0,
    /// No answer (timeout, broken connection): out after a few in a row.
    Failed = 1,
}

/// Reads an engine's metrics page (the body of `GET /metrics`) for an endpoint. The `length` bytes at `page` are only read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_scheduler_ingest_metrics(
    scheduler: *const Scheduler,
    endpoint: *const c_char,
    page: *const c_void,
    length: usize,
) -> Status {
    guard(|| {
        let (scheduler, endpoint) = (read!(borrow scheduler), read!(text endpoint));
        Ok(scheduler.core.ingest_metrics(endpoint, read!(bytes page, length), scheduler.now())?)
    })
}

/// Takes metrics that were read in some other way, as JSON, for example `{"waiting_requests": 3, "kv_cache_utilization":
/// 0.5}` (see the documentation of `EndpointMetrics`). The `length` bytes at `json` are only read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_scheduler_observe(
    scheduler: *const Scheduler,
    endpoint: *const c_char,
    json: *const c_char,
    length: usize,
) -> Status {
    guard(|| {
        let (scheduler, endpoint) = (read!(borrow scheduler), read!(text endpoint));
        let metrics: EndpointMetrics = serde_json::from_slice(read!(bytes json, length))
            .map_err(|error| json_failure(p3sched::Error::InvalidMetrics, error))?;
        Ok(scheduler.core.observe(endpoint, metrics, scheduler.now())?)
    })
}

/// Reads the load that an engine reported with a response, from the value of its header `endpoint-load-metrics`. The
/// `length` bytes at `value` are only read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_scheduler_ingest_load_header(
    scheduler: *const Scheduler,
    endpoint: *const c_char,
    value: *const c_char,
    length: usize,
) -> Status {
    guard(|| {
        let (scheduler, endpoint) = (read!(borrow scheduler), read!(text endpoint));
        let value = str::from_utf8(read!(bytes value, length));
        let value = value.map_err(|_| Failure::utf8("value"))?;
        Ok(scheduler.core.ingest_load_header(endpoint, value, scheduler.now())?)
    })
}

/// Takes note that a scrape of an endpoint failed, and why (a `p3sched_scrape_failure`).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_scheduler_scrape_failed(
    scheduler: *const Scheduler,
    endpoint: *const c_char,
    failure: u32,
) -> Status {
    guard(|| {
        let (scheduler, endpoint) = (read!(borrow scheduler), read!(text endpoint));
        let failure = if failure == ScrapeFailure::Unreachable as u32 {
            p3sched::ScrapeFailure::Unreachable
        } else if failure == ScrapeFailure::Failed as u32 {
            p3sched::ScrapeFailure::Failed
        } else {
            return Err(Failure::argument(&format!(
                "`failure` must be a p3sched_scrape_failure: `{failure}`"
            )));
        };
        Ok(scheduler.core.scrape_failed(endpoint, failure, scheduler.now())?)
    })
}
