//! The scheduler's picture of itself.

use std::sync::Arc;

use super::Scheduler;
use crate::decision::known_value;
use crate::endpoint::state::NANOSECONDS;
use crate::stats::{EndpointStats, IndexStats, Stats};

impl Scheduler {
    /// A picture of the scheduler for metrics and dashboards.
    pub fn stats(&self, now: u64) -> Stats {
        let rows = &mut self.scratch.take().rows;
        let mut guard = self.state.lock();
        let state = &mut *guard;
        self.expire_bookings(state, now);
        state.expire_speculations(now);
        rows.update(&state.pool, &self.load_model, state.mean_uncached_tokens, now);
        let endpoints = state.pool.iter().zip(rows.all()).map(|((slot, known), row)| EndpointStats {
            endpoint: Arc::clone(&known.endpoint.name),
            reachable: row.reachable,
            metrics_age_seconds: known.scraped_at.map(|at| now.saturating_sub(at) as f64 / NANOSECONDS),
            waiting_requests: known.metrics.waiting_requests,
            running_requests: known.metrics.running_requests,
            kv_cache_utilization: known.metrics.kv_cache_utilization,
            requests_in_flight: known.requests_in_flight,
            tokens_in_flight: known.tokens_in_flight,
            queued_tokens: known.queued_tokens,
            wait_seconds: known_value(row.wait_seconds).map(f64::from),
            prefill_tokens_per_second: known.prefill_tokens_per_second(&self.load_model),
            index_blocks: state.index.block_count(slot) + state.precise.block_count(slot),
            sends_kv_events: state.precise.knows(slot),
            predicted_cached_tokens: known.prediction.predicted_tokens,
            actual_cached_tokens: known.prediction.actual_tokens,
            missed_predictions: known.prediction.misses,
            predictions_distrusted: known.prediction.is_distrusted,
        });
        let index = state.index.stats();
        Stats {
            endpoints: endpoints.collect(),
            requests_in_flight: state.ledger.len(),
            index: IndexStats {
                unique_blocks: index.unique_blocks + state.precise.unique_blocks(),
                bytes: index.bytes + state.precise.bytes(),
            },
            counters: state.counters,
        }
    }
}
