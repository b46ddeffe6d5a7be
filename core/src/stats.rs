//! What a scheduler can tell about itself.

use std::sync::Arc;

use serde::Serialize;

/// A picture of the whole scheduler, for metrics and dashboards.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Every endpoint, in no particular order.
    pub endpoints: Vec<EndpointStats>,
    /// Requests in flight, all endpoints together.
    pub requests_in_flight: usize,
    /// Size of the prefix index.
    pub index: IndexStats,
    /// Counts since the scheduler was made.
    pub counters: Counters,
}

/// One endpoint as the scheduler sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct EndpointStats {
    /// Name of the endpoint.
    pub endpoint: Arc<str>,
    /// Whether it is believed to serve.
    pub reachable: bool,
    /// Seconds since the last good scrape; `None` if there was none.
    pub metrics_age_seconds: Option<f64>,
    /// Requests that wait in the engine, as scraped.
    pub waiting_requests: Option<f64>,
    /// Requests in the running batch, as scraped.
    pub running_requests: Option<f64>,
    /// Share of the KV cache in use, as scraped.
    pub kv_cache_utilization: Option<f64>,
    /// Own requests in flight.
    pub requests_in_flight: u32,
    /// Prompt tokens of own requests in flight.
    pub tokens_in_flight: u64,
    /// Uncached tokens of own requests whose first token was not seen yet.
    pub queued_tokens: u64,
    /// Predicted seconds before a new prefill would start; `None` while no prefill rate is known.
    pub wait_seconds: Option<f64>,
    /// Prefill rate, configured or learned.
    pub prefill_tokens_per_second: Option<f64>,
    /// Blocks of this endpoint in the prefix index.
    pub index_blocks: usize,
    /// Whether the endpoint sends KV events.
    pub sends_kv_events: bool,
    /// Tokens that completed requests were expected to find in the cache, where the engine reported what it found.
    pub predicted_cached_tokens: u64,
    /// Tokens that the engine reported as found for the same requests.
    pub actual_cached_tokens: u64,
    /// Predictions in a row that came to nothing: a hit was expected, the engine reported none.
    pub missed_predictions: u32,
    /// Whether the endpoint's entries were forgotten for that, and no prediction has come true since. The likely causes
    /// are another block size, prefix caching switched off, or a cache that is keyed by something not seen here.
    pub predictions_distrusted: bool,
}

/// Size of the prefix index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct IndexStats {
    /// Different blocks.
    pub unique_blocks: usize,
    /// Memory in bytes.
    pub bytes: usize,
}

/// Counts since the scheduler was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counters {
    /// Requests that were picked for.
    pub picks: u64,
    /// Picks whose endpoint held a part of the prompt.
    pub warm_picks: u64,
    /// Prompt tokens of all picks.
    pub prompt_tokens: u64,
    /// Prompt tokens that the chosen endpoints were expected to hold.
    pub matched_tokens: u64,
    /// Picks that failed because no endpoint was left.
    pub refused_picks: u64,
    /// Endpoints that the load gate dropped, summed over picks.
    pub load_gate_drops: u64,
    /// Picks that a tie rule decided.
    pub tied_picks: u64,
    /// Requests reported as complete.
    pub completed_requests: u64,
    /// Of these, the ones that failed.
    pub failed_requests: u64,
    /// Of these, the ones that another endpoint than the chosen one served.
    pub served_elsewhere: u64,
    /// Bookings whose first token or completion nobody reported in time.
    pub expired_bookings: u64,
    /// Engine restarts seen in metrics.
    pub engine_restarts: u64,
    /// KV events that were applied.
    pub kv_events: u64,
    /// KV events left out of account: of another medium, of layers without full attention, of another block size.
    pub skipped_kv_events: u64,
    /// KV events about blocks that continue one which is not known.
    pub orphaned_kv_events: u64,
    /// Batches of KV events after which others were found missing.
    pub kv_event_gaps: u64,
    /// Engine restarts seen in the numbers of batches.
    pub kv_event_restarts: u64,
    /// Blocks of picks that no KV event confirmed in time.
    pub unconfirmed_blocks: u64,
    /// How often an endpoint lost its entries in the prefix index because its predictions persistently came to nothing.
    pub prediction_clears: u64,
}
