//! One picture of several schedulers.

use std::collections::HashMap;
use std::sync::Arc;

use p3sched::stats::{Counters, EndpointStats, Stats};

/// Adds what another scheduler knows.
pub(super) fn add(stats: &mut Stats, other: Stats) {
    let mut places: HashMap<Arc<str>, usize> =
        stats.endpoints.iter().zip(0..).map(|(known, at)| (Arc::clone(&known.endpoint), at)).collect();
    for endpoint in other.endpoints {
        match places.remove(&endpoint.endpoint).and_then(|at| stats.endpoints.get_mut(at)) {
            Some(known) => add_endpoint(known, &endpoint),
            None => stats.endpoints.push(endpoint),
        }
    }
    stats.index.unique_blocks += other.index.unique_blocks;
    stats.index.bytes += other.index.bytes;
    add_counters(&mut stats.counters, &other.counters);
}

/// Adds the work of another profile; what the engine reports is the same in both.
fn add_endpoint(known: &mut EndpointStats, other: &EndpointStats) {
    known.requests_in_flight += other.requests_in_flight;
    known.tokens_in_flight += other.tokens_in_flight;
    known.queued_tokens += other.queued_tokens;
    known.index_blocks += other.index_blocks;
    known.sends_kv_events |= other.sends_kv_events;
    known.predicted_cached_tokens += other.predicted_cached_tokens;
    known.actual_cached_tokens += other.actual_cached_tokens;
    known.missed_predictions = known.missed_predictions.max(other.missed_predictions);
    known.predictions_distrusted |= other.predictions_distrusted;
    known.wait_seconds = longest(known.wait_seconds, other.wait_seconds);
    known.prefill_tokens_per_second = known.prefill_tokens_per_second.or(other.prefill_tokens_per_second);
}

fn longest(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    one.into_iter().chain(other).reduce(f64::max)
}

/// Adds what does not count requests: a request that has its prefill elsewhere is still one request.
fn add_counters(counters: &mut Counters, other: &Counters) {
    for (sum, more) in [
        (&mut counters.load_gate_drops, other.load_gate_drops),
        (&mut counters.expired_bookings, other.expired_bookings),
        (&mut counters.engine_restarts, other.engine_restarts),
        (&mut counters.kv_events, other.kv_events),
        (&mut counters.skipped_kv_events, other.skipped_kv_events),
        (&mut counters.orphaned_kv_events, other.orphaned_kv_events),
        (&mut counters.kv_event_gaps, other.kv_event_gaps),
        (&mut counters.kv_event_restarts, other.kv_event_restarts),
        (&mut counters.unconfirmed_blocks, other.unconfirmed_blocks),
        (&mut counters.prediction_clears, other.prediction_clears),
    ] {
        *sum += more;
    }
}
