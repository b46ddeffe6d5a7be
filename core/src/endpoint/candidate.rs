//! What plugins see of an endpoint.

/// One endpoint at the moment of a pick, as plain numbers; `NaN` stands for "not known".
///
/// Filters, scorers and pickers get a slice of these and nothing else, so each can be tested with a table of values.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Candidate {
    /// Which endpoint this is: a small number, stable while the endpoint exists.
    pub endpoint: u32,
    /// Leading prompt tokens that the endpoint holds in its cache, M_e.
    pub matched_tokens: u32,
    /// Effective queue: predicted seconds before a new prefill starts, or requests where no prefill rate is known.
    pub queue: f32,
    /// Predicted seconds before a new prefill starts, W_e; `NaN` where no prefill rate is known.
    pub wait_seconds: f32,
    /// Prefill rate ρ_e in tokens per second; `NaN` while it is neither configured nor learned.
    pub prefill_tokens_per_second: f32,
    /// Requests in the running batch, as scraped.
    pub running_requests: f32,
    /// Share of the KV cache in use, as scraped plus what was booked since; above 1 when overbooked.
    pub kv_cache_utilization: f32,
    /// Own requests in flight.
    pub requests_in_flight: u32,
    /// Prompt tokens of own requests in flight.
    pub tokens_in_flight: u64,
    /// Counts up with each cold request; the value when this endpoint was last given one, 0 if never.
    pub last_cold_pick: u64,
    /// Hash of the endpoint's name, for rendezvous hashing.
    pub name_hash: u64,
    /// Whether the endpoint answers its scrapes (or was never scraped).
    pub reachable: bool,
    /// Whether the request's subset allows this endpoint.
    pub in_subset: bool,
    /// Seconds since the last good scrape; `NaN` if there was none.
    pub metrics_age_seconds: f32,
}

impl Default for Candidate {
    /// An idle endpoint of which nothing has been reported.
    fn default() -> Self {
        Self {
            endpoint: 0,
            matched_tokens: 0,
            queue: 0.0,
            wait_seconds: f32::NAN,
            prefill_tokens_per_second: f32::NAN,
            running_requests: f32::NAN,
            kv_cache_utilization: f32::NAN,
            requests_in_flight: 0,
            tokens_in_flight: 0,
            last_cold_pick: 0,
            name_hash: 0,
            reachable: true,
            in_subset: true,
            metrics_age_seconds: f32::NAN,
        }
    }
}
