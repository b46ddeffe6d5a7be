//! What plugins see of an endpoint.

use serde::Deserialize;

use crate::profile::RequestView;

/// One endpoint at the moment of a pick, as plain numbers; `NaN` stands for "not known".
///
/// Filters, scorers and pickers get a slice of these and nothing else, so each can be tested with a table of values.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
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
    /// Uncached prompt tokens that wait for their prefill: own ones, or the scraped queue corrected by own picks.
    pub waiting_tokens: f32,
    /// Requests that wait for their prefill: own ones, or the scraped queue corrected by own picks.
    pub waiting_requests: f32,
    /// Prefill rate ρ_e in tokens per second; `NaN` while it is neither configured nor learned.
    pub prefill_tokens_per_second: f32,
    /// Requests in the running batch, as scraped.
    pub running_requests: f32,
    /// Share of the KV cache in use, as scraped plus what was booked since; above 1 when overbooked.
    pub kv_cache_utilization: f32,
    /// Requests that wait for their prefill, as last scraped, of any age.
    pub scraped_waiting_requests: f32,
    /// Share of the KV cache in use, as last scraped, of any age.
    pub scraped_kv_cache_utilization: f32,
    /// Own requests in flight.
    pub requests_in_flight: u32,
    /// Prompt tokens of own requests in flight.
    pub tokens_in_flight: u64,
    /// How many endpoints have waited longer for a cold request; 0 for all that were never given one.
    pub cold_rank: u32,
    /// Hash of the endpoint's name, for rendezvous hashing.
    pub name_hash: u64,
    /// Whether the endpoint answers its scrapes (or was never scraped).
    pub reachable: bool,
    /// Whether the request's subset allows this endpoint.
    pub in_subset: bool,
    /// Whether the endpoint only does prefill for others.
    pub prefill_only: bool,
    /// Whether the endpoint has the request's adapter.
    pub adapter: AdapterState,
    /// Seconds since the last good scrape; `NaN` if there was none.
    pub metrics_age_seconds: f32,
}

impl Candidate {
    /// Tokens of the request's prompt that this endpoint would have to compute, I − M_e.
    pub fn uncached_tokens(&self, request: &RequestView) -> u32 {
        request.prompt_tokens.saturating_sub(self.matched_tokens)
    }

    /// A number that depends on the key and the endpoint's name alone, evenly distributed over both.
    ///
    /// Use this to let the same key prefer the same endpoint wherever and whenever it is asked: the highest one wins.
    pub fn rendezvous_hash(&self, key: u64) -> u64 {
        let product = u128::from(key ^ self.name_hash) * 0x9E37_79B9_7F4A_7C15;
        (product >> 64) as u64 ^ product as u64
    }
}

impl Default for Candidate {
    /// An idle endpoint of which nothing has been reported.
    fn default() -> Self {
        Self {
            endpoint: 0,
            matched_tokens: 0,
            queue: 0.0,
            wait_seconds: f32::NAN,
            waiting_tokens: 0.0,
            waiting_requests: 0.0,
            prefill_tokens_per_second: f32::NAN,
            running_requests: f32::NAN,
            kv_cache_utilization: f32::NAN,
            scraped_waiting_requests: f32::NAN,
            scraped_kv_cache_utilization: f32::NAN,
            requests_in_flight: 0,
            tokens_in_flight: 0,
            cold_rank: 0,
            name_hash: 0,
            reachable: true,
            in_subset: true,
            prefill_only: false,
            adapter: AdapterState::NotNeeded,
            metrics_age_seconds: f32::NAN,
        }
    }
}

/// Whether an endpoint has the adapter (LoRA) that a request names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AdapterState {
    /// The request names no adapter.
    #[default]
    NotNeeded,
    /// Loaded, and serving requests.
    Running,
    /// Not loaded, but there is room for it.
    Room,
    /// Not loaded; requests wait for it.
    Waiting,
    /// Not loaded, and others hold all places.
    Full,
    /// The endpoint reports nothing about adapters.
    Unknown,
}
