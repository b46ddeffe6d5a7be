//! The core's readers and tables that need no scheduler.

use napi::bindgen_prelude::*;
use napi_derive::napi;
use p3sched::block_hash::BlockHasher;
use p3sched::{EndpointMetrics, SchedulerConfig};
use serde_json::Value;

use crate::error::{self, from_core};
use crate::number::count;
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
    block_size_tokens: f64,
    bytes_per_token: f64,
    max_prefix_tokens: Option<f64>,
) -> error::Result<BigUint64Array> {
    let request = request::read(&request)?;
    let block_size_tokens = count("blockSizeTokens", block_size_tokens).map_err(from_core)?;
    let bytes_per_token = count("bytesPerToken", bytes_per_token).map_err(from_core)?;
    let max_prefix_tokens =
        max_prefix_tokens.map(|max| count("maxPrefixTokens", max)).transpose().map_err(from_core)?;
    let hasher =
        BlockHasher::new(block_size_tokens, bytes_per_token, max_prefix_tokens).map_err(from_core)?;
    let mut hashes = Vec::new();
    hasher.hash(&request, &mut hashes);
    Ok(hashes.into())
}
