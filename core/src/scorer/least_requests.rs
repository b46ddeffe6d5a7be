//! `least-requests`: own requests in flight, between the most and the fewest of the candidates.
//!
//! Score: `(max r − r_e) / (max r − min r)`, with r the own requests in flight; all equal gives 1. Needs no metrics.
//! No parameters.
//!
//! Source: the rule of every least-connections load balancer.

use super::{Scorer, smaller_is_better};
use crate::Error;
use crate::config::ScorerConfig;
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Name in configurations.
pub const TYPE: &str = "least-requests";

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeastRequestsScorer;

impl LeastRequestsScorer {
    pub(crate) fn from_config(config: &ScorerConfig) -> Result<Self, Error> {
        config.parameters().finish()?;
        Ok(Self)
    }
}

impl Scorer for LeastRequestsScorer {
    fn name(&self) -> &'static str {
        TYPE
    }

    fn score(&self, _request: &RequestView, candidates: &[Candidate], out: &mut [f32]) {
        smaller_is_better(candidates.iter().map(|candidate| candidate.requests_in_flight as f32), out);
    }

    fn raw(&self, _request: &RequestView, candidate: &Candidate) -> f32 {
        candidate.requests_in_flight as f32
    }
}
