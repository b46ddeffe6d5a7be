//! `running-requests-size-scorer`: the running batch, between the largest and the smallest of the candidates.
//!
//! Score: `(max b − b_e) / (max b − min b)`, with b the requests in the running batch as scraped; all equal gives 1. An
//! endpoint that reports no batch, or whose scrape has expired, has no score. No parameters.
//!
//! Source: the endpoint picker of the Gateway API Inference Extension, `running-requests-size-scorer`.

use super::{Scorer, smaller_is_better};
use crate::Error;
use crate::config::ScorerConfig;
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Name in configurations.
pub const TYPE: &str = "running-requests-size-scorer";

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningRequestsSizeScorer;

impl RunningRequestsSizeScorer {
    pub(crate) fn from_config(config: &ScorerConfig) -> Result<Self, Error> {
        config.parameters().finish()?;
        Ok(Self)
    }
}

impl Scorer for RunningRequestsSizeScorer {
    fn name(&self) -> &'static str {
        TYPE
    }

    fn score(&self, _request: &RequestView, candidates: &[Candidate], out: &mut [f32]) {
        smaller_is_better(candidates.iter().map(|candidate| candidate.running_requests), out);
    }

    fn raw(&self, _request: &RequestView, candidate: &Candidate) -> f32 {
        candidate.running_requests
    }
}
