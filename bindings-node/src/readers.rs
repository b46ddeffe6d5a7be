//! The core's readers and tables that need no scheduler.

use napi::bindgen_prelude::*;
use napi_derive::napi;
use p3sched::block_hash::BlockHasher;
use p3sched::{EndpointMetrics, SchedulerConfig};
use serde_json::Value;

use crate::error::{self, from_core};
use crate::{plain, request};

/// The load that an engine's metrics page reports.
#[napi(catch_unwind)]
pub fn read_metrics(page: Uint8ArraySlice<'_>) -> error::Result<Value> {
    plain::write(&EndpointMetrics::from_page(&*page).map_err(from_core)?)
}

/// The load that an engine reports with a response.
#[napi(catch_unwind)]
pub fn read_load_header(value: String) -> error::Result<Value> {
    plain::write(&EndpointMetrics::from_load_header(&value).map_err(from_core)?)
}

/// Names of all presets.
#[napi(catch_unwind)]
pub fn preset_names() -> Vec<&'static str> {
    p3sched::preset::names().collect()
}

/// The configuration of a preset.
#[napi(catch_unwind)]
pub fn preset(name: String) -> error::Result<Value> {
    plain::write_verbatim(&SchedulerConfig::preset(&name).map_err(from_core)?)
}

/// The chained hashes of a request's full blocks.
#[napi(catch_unwind)]
pub fn block_hashes(
    request: Object<'_>,
    block_size_tokens: u32,
    bytes_per_token: u32,
    max_prefix_tokens: Option<u32>,
) -> error::Result<BigUint64Array> {
    let request = request::read(&request)?;
    let hasher =
        BlockHasher::new(block_size_tokens, bytes_per_token, max_prefix_tokens).map_err(from_core)?;
    let mut hashes = Vec::new();
    hasher.hash(&request, &mut hashes);
    Ok(hashes.into())
}
