//! What an engine reports about itself.

use serde::{Deserialize, Serialize};

/// The load of one endpoint as its engine reports it; absent values are `None`, never 0.
///
/// With data parallelism one page holds several engines: counts are sums over them, utilisations are means.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct EndpointMetrics {
    /// Requests that wait for their prefill to start.
    pub waiting_requests: Option<f64>,
    /// Requests in the running batch.
    pub running_requests: Option<f64>,
    /// Share of the KV cache held by running requests, in [0, 1]; 0 when idle even if the prefix cache is full.
    pub kv_cache_utilization: Option<f64>,
    /// Tokens per KV block.
    pub block_size_tokens: Option<u32>,
    /// KV blocks of the endpoint, all its data-parallel engines together.
    pub block_count: Option<u64>,
    /// How many adapters (LoRA) can be loaded at once.
    pub max_adapters: Option<u32>,
    /// Adapters that serve requests now.
    pub running_adapters: Vec<String>,
    /// Adapters that requests wait for.
    pub waiting_adapters: Vec<String>,
    /// Prompt tokens looked up in the prefix cache since the engine started.
    pub prefix_cache_queries_total: Option<f64>,
    /// Prompt tokens found in the prefix cache since the engine started.
    pub prefix_cache_hits_total: Option<f64>,
    /// Requests finished since the engine started; goes back when the engine restarts.
    pub request_success_total: Option<f64>,
}
