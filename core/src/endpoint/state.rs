//! What is known of one endpoint, and the row that a pick sees of it.

use xxhash_rust::xxh3::xxh3_64;

use super::ledger::Booking;
use super::prediction::CachePrediction;
use super::rate::PrefillRate;
use super::rows::{Stretch, WaitingWork};
use super::{AdapterState, Candidate, Endpoint, EndpointMetrics, ScrapeFailure};

pub(crate) const NANOSECONDS: f64 = 1e9;

pub(crate) fn nanoseconds(seconds: f64) -> u64 {
    (seconds * NANOSECONDS) as u64
}

/// How load is computed from what was scraped and what was booked; times in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoadModel {
    /// Up to this age a scrape counts fully.
    pub(crate) fresh: u64,
    /// From this age on a scrape counts nothing.
    pub(crate) expire: u64,
    /// Failed scrapes in a row after which an endpoint may be taken for dead …
    pub(crate) dead_after_scrapes: u32,
    /// … when the first of them is at least this old.
    pub(crate) dead_after: u64,
    /// Prefill rate of every endpoint in tokens per second, when configured.
    pub(crate) prefill_tokens_per_second: Option<f64>,
}

impl LoadModel {
    /// Weight in [0, 1] of a scrape of this age.
    fn freshness(&self, age: u64) -> f32 {
        if age <= self.fresh {
            return 1.0;
        }
        if age >= self.expire {
            return 0.0;
        }
        (self.expire - age) as f32 / (self.expire - self.fresh) as f32
    }
}

/// What is known of one endpoint.
#[derive(Debug)]
pub(crate) struct EndpointState {
    pub(crate) endpoint: Endpoint,
    pub(crate) generation: u32,
    pub(crate) metrics: EndpointMetrics,
    pub(crate) scraped_at: Option<u64>,
    /// Uncached tokens of own requests without a first token.
    pub(crate) queued_tokens: u64,
    /// Own requests without a first token.
    pub(crate) queued_requests: u32,
    pub(crate) requests_in_flight: u32,
    pub(crate) tokens_in_flight: u64,
    pub(crate) rate: PrefillRate,
    pub(crate) prediction: CachePrediction,
    pub(super) slot: u32,
    /// Number of its last change in the pool.
    pub(super) changed_at: u64,
    name_hash: u64,
    prefill_only: bool,
    scraped: ScrapedLoad,
    queued_tokens_at_scrape: u64,
    queued_requests_at_scrape: u32,
    booked_since_scrape: u64,
    failed_scrapes: u32,
    first_failure_at: u64,
    unreachable: bool,
}

impl EndpointState {
    pub(super) fn new(endpoint: Endpoint, generation: u32, slot: u32) -> Self {
        Self {
            slot,
            changed_at: 0,
            name_hash: xxh3_64(endpoint.name.as_bytes()),
            prefill_only: is_prefill_only(&endpoint),
            endpoint,
            generation,
            metrics: EndpointMetrics::default(),
            scraped_at: None,
            queued_tokens: 0,
            queued_requests: 0,
            requests_in_flight: 0,
            tokens_in_flight: 0,
            rate: PrefillRate::default(),
            prediction: CachePrediction::default(),
            scraped: ScrapedLoad::of(&EndpointMetrics::default()),
            queued_tokens_at_scrape: 0,
            queued_requests_at_scrape: 0,
            booked_since_scrape: 0,
            failed_scrapes: 0,
            first_failure_at: 0,
            unreachable: false,
        }
    }

    /// Takes new labels.
    pub(super) fn relabel(&mut self, endpoint: Endpoint) {
        self.prefill_only = is_prefill_only(&endpoint);
        self.endpoint = endpoint;
    }

    /// Stores a good scrape; true if it shows that the engine restarted since the last one.
    pub(crate) fn observe(&mut self, metrics: EndpointMetrics, now: u64) -> bool {
        let restarted = went_back(self.metrics.request_success_total, metrics.request_success_total)
            || went_back(self.metrics.prefix_cache_queries_total, metrics.prefix_cache_queries_total);
        self.scraped = ScrapedLoad::of(&metrics);
        self.metrics = metrics;
        self.scraped_at = Some(now);
        self.queued_tokens_at_scrape = self.queued_tokens;
        self.queued_requests_at_scrape = self.queued_requests;
        self.booked_since_scrape = 0;
        self.failed_scrapes = 0;
        self.unreachable = false;
        if restarted {
            self.prediction.forget_misses();
        }
        restarted
    }

    /// Takes note of a scrape that brought nothing.
    pub(crate) fn scrape_failed(&mut self, failure: ScrapeFailure, now: u64) {
        if self.failed_scrapes == 0 {
            self.first_failure_at = now;
        }
        self.failed_scrapes = self.failed_scrapes.saturating_add(1);
        self.unreachable |= failure == ScrapeFailure::Unreachable;
    }

    /// Prefill rate in tokens per second, configured or learned.
    pub(crate) fn prefill_tokens_per_second(&self, model: &LoadModel) -> Option<f64> {
        model.prefill_tokens_per_second.or_else(|| self.rate.tokens_per_second())
    }

    /// Tokens that fit into the engine's KV cache, when it says so.
    pub(crate) fn capacity_tokens(&self) -> Option<u64> {
        capacity_tokens(&self.metrics)
    }

    /// Adds a request.
    pub(crate) fn book(&mut self, prompt_tokens: u32, uncached_tokens: u64) {
        self.queued_tokens += uncached_tokens;
        self.queued_requests += 1;
        self.requests_in_flight += 1;
        self.tokens_in_flight += u64::from(prompt_tokens);
        self.booked_since_scrape += uncached_tokens;
    }

    /// Ends the waiting part of a booking.
    pub(crate) fn release_queued(&mut self, booking: &Booking) {
        self.queued_tokens = self.queued_tokens.saturating_sub(booking.uncached_tokens());
        self.queued_requests = self.queued_requests.saturating_sub(1);
    }

    /// Ends a booking.
    pub(crate) fn release(&mut self, booking: &Booking) {
        if booking.awaits_first_token {
            self.release_queued(booking);
        }
        self.requests_in_flight = self.requests_in_flight.saturating_sub(1);
        self.tokens_in_flight = self.tokens_in_flight.saturating_sub(u64::from(booking.prompt_tokens));
    }

    /// Writes what the row says of this endpoint, but for what depends on others or on the request. Returns the weight of the
    /// last scrape, and how long what was written holds.
    pub(super) fn write_row(&self, row: &mut Candidate, model: &LoadModel, now: u64) -> (f32, Stretch) {
        let scraped = &self.scraped;
        let (freshness, fresh) = self.freshness(model, now);
        let (reachable, silent) = self.reachability(model, now);
        let is_expired = freshness == 0.0;
        let booked = self.booked_since_scrape as f64 * scraped.share_per_token;
        let used = (scraped.kv_cache_utilization + booked) as f32;
        row.endpoint = self.slot;
        row.name_hash = self.name_hash;
        row.prefill_only = self.prefill_only;
        row.reachable = reachable;
        row.kv_cache_utilization = if is_expired { f32::NAN } else { used };
        row.running_requests = if is_expired { f32::NAN } else { scraped.running_requests };
        row.scraped_waiting_requests = scraped.waiting_requests;
        row.scraped_kv_cache_utilization = scraped.kv_cache_utilization as f32;
        row.waiting_requests = self.waiting_requests(freshness);
        row.requests_in_flight = self.requests_in_flight;
        row.tokens_in_flight = self.tokens_in_flight;
        (freshness, fresh.and(silent))
    }

    /// What W_e in tokens is computed from.
    pub(super) fn waiting_work(&self, freshness: f32) -> WaitingWork {
        WaitingWork {
            scraped_requests: self.scraped.waiting_or_none * freshness,
            // Signed integers convert in one instruction.
            own_tokens: self.queued_tokens as i64 as f32,
            own_tokens_at_scrape: self.queued_tokens_at_scrape as i64 as f32,
        }
    }

    /// W_e in requests, for endpoints whose prefill rate nobody knows.
    fn waiting_requests(&self, freshness: f32) -> f32 {
        let own = self.queued_requests as f32;
        let corrected =
            self.scraped.waiting_or_none * freshness + own - self.queued_requests_at_scrape as f32;
        if corrected > own { corrected } else { own }
    }

    /// Weight in [0, 1] of the last scrape, and how long it stays the same.
    fn freshness(&self, model: &LoadModel, now: u64) -> (f32, Stretch) {
        let Some(scraped_at) = self.scraped_at else { return (0.0, Stretch::ALWAYS) };
        let freshness = model.freshness(now.saturating_sub(scraped_at));
        let stays = if freshness == 1.0 {
            Stretch { from: 0, until: scraped_at.saturating_add(model.fresh) }
        } else if freshness == 0.0 {
            Stretch { from: scraped_at.saturating_add(model.expire), until: u64::MAX }
        } else {
            Stretch::NEVER
        };
        (freshness, stays)
    }

    /// Whether the endpoint is believed to serve, and how long that stays the same.
    fn reachability(&self, model: &LoadModel, now: u64) -> (bool, Stretch) {
        if self.failed_scrapes == 0 || self.unreachable {
            return (!self.unreachable, Stretch::ALWAYS);
        }
        if self.failed_scrapes < model.dead_after_scrapes {
            return (true, Stretch::ALWAYS);
        }
        let dead_from = self.first_failure_at.saturating_add(model.dead_after);
        if now.saturating_sub(self.first_failure_at) < model.dead_after {
            (true, Stretch { from: 0, until: dead_from.saturating_sub(1) })
        } else {
            (false, Stretch { from: dead_from, until: u64::MAX })
        }
    }

    /// Whether an adapter of this name is loaded, as last scraped.
    pub(super) fn adapter_state(&self, name: &str) -> AdapterState {
        let metrics = &self.metrics;
        if metrics.running_adapters.iter().any(|running| running == name) {
            return AdapterState::Running;
        }
        if metrics.waiting_adapters.iter().any(|waiting| waiting == name) {
            return AdapterState::Waiting;
        }
        let Some(places) = metrics.max_adapters else { return AdapterState::Unknown };
        let running = &metrics.running_adapters;
        let waiting = metrics.waiting_adapters.iter().filter(|waiting| !running.contains(waiting)).count();
        if running.len() + waiting < places as usize { AdapterState::Room } else { AdapterState::Full }
    }
}

/// The numbers of a scrape that every pick reads; `NaN` where the page said nothing.
#[derive(Debug, Clone, Copy)]
struct ScrapedLoad {
    waiting_requests: f32,
    running_requests: f32,
    kv_cache_utilization: f64,
    /// Waiting requests, 0 where the page said nothing.
    waiting_or_none: f32,
    /// Share of the KV cache that one token fills; 0 where the capacity is not known.
    share_per_token: f64,
}

impl ScrapedLoad {
    fn of(metrics: &EndpointMetrics) -> Self {
        let capacity = capacity_tokens(metrics).filter(|&capacity| capacity > 0);
        Self {
            waiting_requests: or_unknown(metrics.waiting_requests),
            running_requests: or_unknown(metrics.running_requests),
            kv_cache_utilization: metrics.kv_cache_utilization.unwrap_or(f64::NAN),
            waiting_or_none: metrics.waiting_requests.unwrap_or(0.0) as f32,
            share_per_token: capacity.map_or(0.0, |capacity| 1.0 / capacity as f64),
        }
    }
}

fn capacity_tokens(metrics: &EndpointMetrics) -> Option<u64> {
    Some(metrics.block_count?.saturating_mul(u64::from(metrics.block_size_tokens?)))
}

/// Whether an endpoint's labels say that it only does prefill for others.
fn is_prefill_only(endpoint: &Endpoint) -> bool {
    let label = |name| endpoint.labels.get(name).map(String::as_str);
    label("llm-d.ai/role").or_else(|| label("role")) == Some("prefill")
}

fn or_unknown(value: Option<f64>) -> f32 {
    value.map_or(f32::NAN, |value| value as f32)
}

fn went_back(before: Option<f64>, after: Option<f64>) -> bool {
    matches!((before, after), (Some(before), Some(after)) if after < before)
}
