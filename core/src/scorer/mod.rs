//! Step 4b: scorers. Each rates every candidate in [0, 1], 1 is best; a profile adds them up by weight.
//!
//! | type | score |
//! |---|---|
//! | [`prefix-cache-scorer`](prefix_cache) | share of the prompt that the endpoint holds |
//! | [`queue-scorer`](queue) | effective queue between the longest (0) and the shortest (1) |
//! | [`kv-cache-utilization-scorer`](kv_cache_utilization) | free share of the KV cache |
//! | [`running-requests-size-scorer`](running_requests_size) | running batch between the largest (0) and the smallest (1) |
//! | [`load-aware-scorer`](load_aware) | 0.5 for an empty queue, 0 at a threshold |
//! | [`least-requests`](least_requests) | own requests in flight between the most (0) and the fewest (1) |
//! | [`active-request-scorer`](active_request) | 1 for idle endpoints, then own requests against the busiest |
//! | [`token-load-scorer`](token_load) | prompt tokens in flight against a threshold |
//! | [`lora-affinity-scorer`](lora_affinity) | whether the request's adapter is loaded |
//! | [`session-affinity-scorer`](session_affinity) | 1 for the endpoint that served the session last |
//! | [`no-hit-lru-scorer`](no_hit_lru) | how long an endpoint was given no cold request |
//! | [`time-to-first-token-scorer`](time_to_first_token) | shortest predicted time to the first token over this one's |
//! | [`uncached-times-batch-scorer`](uncached_times_batch) | smallest product of uncached tokens and batch over this one's |
//!
//! To add one: copy a file, add a line here, in [`build`] and in [`TYPES`], and a row to
//! `testdata/scorers.json`. One that is written outside of this crate plugs in by
//! [`SchedulerBuilder::scorer`](crate::SchedulerBuilder::scorer).

pub mod active_request;
pub mod kv_cache_utilization;
pub mod least_requests;
pub mod load_aware;
pub mod lora_affinity;
pub mod no_hit_lru;
pub mod prefix_cache;
pub mod queue;
pub mod running_requests_size;
pub mod session_affinity;
pub mod time_to_first_token;
pub mod token_load;
pub mod uncached_times_batch;

use crate::Error;
use crate::config::{ScorerConfig, unknown_name};
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Type names of all scorers, as they are written in a configuration.
pub const TYPES: [&str; 13] = [
    prefix_cache::TYPE,
    queue::TYPE,
    kv_cache_utilization::TYPE,
    running_requests_size::TYPE,
    load_aware::TYPE,
    least_requests::TYPE,
    active_request::TYPE,
    token_load::TYPE,
    lora_affinity::TYPE,
    session_affinity::TYPE,
    no_hit_lru::TYPE,
    time_to_first_token::TYPE,
    uncached_times_batch::TYPE,
];

/// Rates candidates for one request.
///
/// The contract, enforced by the profile: `out` has one place per candidate, in their order; every place is
/// written; values lie in [0, 1] and 1 is best. `NaN` says that the input is missing; the profile replaces it by
/// the mean of the candidates that have a score (1 if none has) and shows it in the explanation. Values outside of
/// [0, 1] are clamped. A scorer is called once per request and keeps no state between calls.
pub trait Scorer: Send + Sync + std::fmt::Debug {
    /// The name in configurations and explanations.
    fn name(&self) -> &'static str;

    /// Writes the score of every candidate.
    fn score(&self, request: &RequestView, candidates: &[Candidate], out: &mut [f32]);

    /// The number that the score of this candidate comes from, for explanations; `NaN` if there is none.
    fn raw(&self, request: &RequestView, candidate: &Candidate) -> f32;
}

/// Makes a scorer from its configuration.
///
/// Use this to try a scorer on a table of values; a [`Scheduler`](crate::Scheduler) makes its own.
///
/// # Errors
///
/// [`Error::InvalidConfig`] names an unknown type or parameter, or a parameter out of its range.
///
/// # Example
///
/// ```
/// use p3sched::config::ScorerConfig;
/// use p3sched::endpoint::Candidate;
/// use p3sched::profile::RequestView;
/// use p3sched::scorer;
///
/// let least_requests = scorer::build(&ScorerConfig::new("least-requests", 1.0))?;
/// let mut candidates = [Candidate::default(); 2];
/// candidates[0].requests_in_flight = 3;
/// let mut scores = [f32::NAN; 2];
/// least_requests.score(&RequestView::default(), &candidates, &mut scores);
/// assert_eq!(scores, [0.0, 1.0]);
/// # Ok::<(), p3sched::Error>(())
/// ```
pub fn build(config: &ScorerConfig) -> Result<Box<dyn Scorer>, Error> {
    Ok(match config.scorer_type.as_str() {
        prefix_cache::TYPE => Box::new(prefix_cache::PrefixCacheScorer::from_config(config)?),
        queue::TYPE => Box::new(queue::QueueScorer::from_config(config)?),
        kv_cache_utilization::TYPE => {
            Box::new(kv_cache_utilization::KvCacheUtilizationScorer::from_config(config)?)
        }
        running_requests_size::TYPE => {
            Box::new(running_requests_size::RunningRequestsSizeScorer::from_config(config)?)
        }
        load_aware::TYPE => Box::new(load_aware::LoadAwareScorer::from_config(config)?),
        least_requests::TYPE => Box::new(least_requests::LeastRequestsScorer::from_config(config)?),
        active_request::TYPE => Box::new(active_request::ActiveRequestScorer::from_config(config)?),
        token_load::TYPE => Box::new(token_load::TokenLoadScorer::from_config(config)?),
        lora_affinity::TYPE => Box::new(lora_affinity::LoraAffinityScorer::from_config(config)?),
        session_affinity::TYPE => Box::new(session_affinity::SessionAffinityScorer::from_config(config)?),
        no_hit_lru::TYPE => Box::new(no_hit_lru::NoHitLruScorer::from_config(config)?),
        time_to_first_token::TYPE => {
            Box::new(time_to_first_token::TimeToFirstTokenScorer::from_config(config)?)
        }
        uncached_times_batch::TYPE => {
            Box::new(uncached_times_batch::UncachedTimesBatchScorer::from_config(config)?)
        }
        unknown => return Err(unknown_name("scorer type", unknown, &TYPES)),
    })
}

/// The smallest of the values that are not `NaN`; ∞ if there is none.
pub(crate) fn smallest_known(values: &[f32]) -> f32 {
    extreme(values, f32::INFINITY, |a, b| if b < a { b } else { a })
}

/// The largest of the values that are not `NaN`; −∞ if there is none.
pub(crate) fn largest_known(values: &[f32]) -> f32 {
    extreme(values, f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
}

/// A comparison with `NaN` is false, and unlike that of `f32::min` it is a single instruction.
fn extreme(values: &[f32], start: f32, better: impl Fn(f32, f32) -> f32 + Copy) -> f32 {
    let wide = lanes::<16>(values, start, better);
    lanes::<4>(&wide, start, better).into_iter().fold(start, better)
}

/// The best of every so-many-th value: comparisons that do not wait for each other.
fn lanes<const LANES: usize>(values: &[f32], start: f32, better: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    let mut best = [start; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        best.iter_mut().zip(chunk).for_each(|(best, &value)| *best = better(*best, value));
    }
    best.iter_mut().zip(rest).for_each(|(best, &value)| *best = better(*best, value));
    best
}

/// (max − v) / (max − min) over the finite values; all equal gives 1, a missing value stays `NaN`.
pub(crate) fn smaller_is_better(values: impl Iterator<Item = f32>, out: &mut [f32]) {
    copy_known(values, out);
    let (min, max) = (smallest_known(out), largest_known(out));
    let range = max - min;
    if range > 0.0 {
        out.iter_mut().for_each(|place| *place = (max - *place) / range);
    } else {
        // Adding 0 times the value keeps `NaN`.
        out.iter_mut().for_each(|place| *place = 1.0 + 0.0 * *place);
    }
}

/// (min v) / v over the finite values, which must not be negative; 0 over 0 is 1, a missing value stays `NaN`.
pub(crate) fn smallest_over(values: impl Iterator<Item = f32>, out: &mut [f32]) {
    copy_known(values, out);
    let smallest = smallest_known(out);
    out.iter_mut().for_each(|place| *place = if *place == 0.0 { 1.0 } else { smallest / *place });
}

/// Copies values, those that are not finite as `NaN`.
fn copy_known(values: impl Iterator<Item = f32>, out: &mut [f32]) {
    for (place, value) in out.iter_mut().zip(values) {
        *place = if value.is_finite() { value } else { f32::NAN };
    }
}
