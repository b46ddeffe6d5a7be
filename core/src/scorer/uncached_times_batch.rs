//! `uncached-times-batch-scorer`: the smallest product of what a prefill costs and how many requests it holds up.
//!
//! Score: `min p / p_e`, with `p_e = max(I − M_e, 1) · (b_e + 1)`: I the prompt's tokens, M_e those that the endpoint
//! holds (an engine computes at least the last one), b_e its batch: own requests in flight, or the scraped running
//! requests where these are more. No parameters, and no unit that would have to be weighed against another.
//!
//! Source: Zhang et al., "`LMetric`: simple is better – multiplication may be all you need for LLM request scheduling"
//! (2026).

use super::{Scorer, smallest_over};
use crate::Error;
use crate::config::ScorerConfig;
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Name in configurations.
pub const TYPE: &str = "uncached-times-batch-scorer";

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UncachedTimesBatchScorer;

impl UncachedTimesBatchScorer {
    pub(crate) fn from_config(config: &ScorerConfig) -> Result<Self, Error> {
        config.parameters().finish()?;
        Ok(Self)
    }
}

impl Scorer for UncachedTimesBatchScorer {
    fn name(&self) -> &'static str {
        TYPE
    }

    fn score(&self, request: &RequestView, candidates: &[Candidate], out: &mut [f32]) {
        smallest_over(candidates.iter().map(|candidate| self.raw(request, candidate)), out);
    }

    fn raw(&self, request: &RequestView, candidate: &Candidate) -> f32 {
        // `f32::max` ignores a batch that nobody reported.
        let batch = (candidate.requests_in_flight as f32).max(candidate.running_requests);
        candidate.uncached_tokens(request).max(1) as f32 * (batch + 1.0)
    }
}
