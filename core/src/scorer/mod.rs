//! Step 4b: scorers. Each rates every candidate in [0, 1], 1 is best; a profile adds them up by weight.
//!
//! | type | score |
//! |---|---|
//! | [`prefix-cache-scorer`](prefix_cache) | share of the prompt that the endpoint holds |
//! | [`queue-scorer`](queue) | effective queue between the longest (0) and the shortest (1) |
//! | [`kv-cache-utilization-scorer`](kv_cache_utilization) | free share of the KV cache |
//!
//! To add one: copy a file, add a line here, in [`build`] and in [`TYPES`], and a row to
//! `testdata/scorers.json`.

pub mod kv_cache_utilization;
pub mod prefix_cache;
pub mod queue;

use crate::Error;
use crate::config::ScorerConfig;
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Type names of all scorers, as they are written in a configuration.
pub const TYPES: [&str; 3] = [prefix_cache::TYPE, queue::TYPE, kv_cache_utilization::TYPE];

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
pub(crate) fn build(config: &ScorerConfig) -> Result<Box<dyn Scorer>, Error> {
    match config.scorer_type.as_str() {
        prefix_cache::TYPE => Ok(Box::new(prefix_cache::PrefixCacheScorer::from_config(config)?)),
        queue::TYPE => Ok(Box::new(queue::QueueScorer::from_config(config)?)),
        kv_cache_utilization::TYPE => {
            Ok(Box::new(kv_cache_utilization::KvCacheUtilizationScorer::from_config(config)?))
        }
        unknown => Err(Error::InvalidConfig(format!(
            "unknown scorer type `{unknown}`, expected one of: {}",
            TYPES.join(", ")
        ))),
    }
}

/// (max − v) / (max − min) over the finite values; all equal gives 1, a missing value stays `NaN`.
pub(crate) fn smaller_is_better(values: impl Iterator<Item = f32> + Clone, out: &mut [f32]) {
    let finite = values.clone().filter(|value| value.is_finite());
    let (min, max) =
        finite.fold((f32::INFINITY, f32::NEG_INFINITY), |(min, max), value| (min.min(value), max.max(value)));
    let range = max - min;
    for (place, value) in out.iter_mut().zip(values) {
        *place = match value {
            value if !value.is_finite() => f32::NAN,
            value if range > 0.0 => (max - value) / range,
            _ => 1.0,
        };
    }
}
