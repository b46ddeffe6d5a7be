//! `time-to-first-token-scorer`: the endpoint that is predicted to answer first.
//!
//! Score: `min t / t_e`, with `t_e = W_e + max(I − M_e, 1) / ρ_e` the predicted seconds to the first token: W_e the wait
//! before the prefill starts, I the prompt's tokens, M_e those that the endpoint holds (an engine computes at least the
//! last one), ρ_e the prefill rate. Where no rate is known anywhere, all are taken to be equally fast. No parameters.
//!
//! It is a policy of its own: alone with any weight it sends every request to the smallest t. A ratio rather than a
//! distance keeps small times apart when one endpoint is far behind.
//!
//! Source: the greedy rule behind Mooncake's conductor (Qin et al., "Mooncake: a KVCache-centric disaggregated
//! architecture for LLM serving", FAST 2025, algorithm 1).

use super::{Scorer, smallest_over};
use crate::Error;
use crate::config::ScorerConfig;
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Name in configurations.
pub const TYPE: &str = "time-to-first-token-scorer";

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeToFirstTokenScorer;

impl TimeToFirstTokenScorer {
    pub(crate) fn from_config(config: &ScorerConfig) -> Result<Self, Error> {
        config.parameters().finish()?;
        Ok(Self)
    }
}

impl Scorer for TimeToFirstTokenScorer {
    fn name(&self) -> &'static str {
        TYPE
    }

    fn score(&self, request: &RequestView, candidates: &[Candidate], out: &mut [f32]) {
        smallest_over(candidates.iter().map(|candidate| self.raw(request, candidate)), out);
    }

    fn raw(&self, request: &RequestView, candidate: &Candidate) -> f32 {
        let rate = candidate.prefill_tokens_per_second;
        let tokens = candidate.waiting_tokens + candidate.uncached_tokens(request).max(1) as f32;
        if rate.is_nan() { tokens } else { tokens / rate }
    }
}
