//! `no-hit-lru-scorer`: cold requests go round, so that caches fill evenly.
//!
//! Score: 0.5 for all if any endpoint holds a part of the prompt; else `1 − rank / (n − 1)`, with the n candidates ranked
//! by when each was last given a cold request, least recent first. Those that never were share rank 0; where a filter
//! dropped endpoints, the ranks left are spread evenly enough: the first still scores 1 and the last 0. No parameters.
//!
//! Source: the llm-d inference scheduler, `no-hit-lru-scorer`, which ranks those that never had a cold request by their
//! place in the list.

use super::{Scorer, smaller_is_better};
use crate::Error;
use crate::config::ScorerConfig;
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Name in configurations.
pub const TYPE: &str = "no-hit-lru-scorer";

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoHitLruScorer;

impl NoHitLruScorer {
    pub(crate) fn from_config(config: &ScorerConfig) -> Result<Self, Error> {
        config.parameters().finish()?;
        Ok(Self)
    }
}

impl Scorer for NoHitLruScorer {
    fn name(&self) -> &'static str {
        TYPE
    }

    fn score(&self, request: &RequestView, candidates: &[Candidate], out: &mut [f32]) {
        if request.is_warm {
            out.fill(0.5);
            return;
        }
        smaller_is_better(candidates.iter().map(|candidate| candidate.cold_rank as f32), out);
    }

    fn raw(&self, _request: &RequestView, candidate: &Candidate) -> f32 {
        candidate.cold_rank as f32
    }
}
