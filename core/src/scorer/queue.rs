//! `queue-scorer`: the effective queue, between the longest and the shortest of the candidates.
//!
//! Score: `(max q − q_e) / (max q − min q)`; all equal gives 1. q is the effective queue: the predicted seconds before
//! a new prefill starts (own booked work, the scraped queue corrected by it), or requests where no prefill rate is
//! known.
//!
//! | parameter | unit | default |
//! |---|---|---|
//! | `scraped` | 1 to take q as it was last scraped, in requests and of any age | 0 |
//!
//! Source: the endpoint picker of the Gateway API Inference Extension, `queue-scorer`, there over the scraped
//! `num_requests_waiting` alone.

use super::{Scorer, smaller_is_better};
use crate::Error;
use crate::config::ScorerConfig;
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Name in configurations.
pub const TYPE: &str = "queue-scorer";

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueScorer {
    scraped: bool,
}

impl QueueScorer {
    pub(crate) fn from_config(config: &ScorerConfig) -> Result<Self, Error> {
        let mut parameters = config.parameters();
        let scorer = Self { scraped: parameters.switch("scraped")? };
        parameters.finish()?;
        Ok(scorer)
    }
}

impl Scorer for QueueScorer {
    fn name(&self) -> &'static str {
        TYPE
    }

    fn score(&self, request: &RequestView, candidates: &[Candidate], out: &mut [f32]) {
        smaller_is_better(candidates.iter().map(|candidate| self.raw(request, candidate)), out);
    }

    fn raw(&self, _request: &RequestView, candidate: &Candidate) -> f32 {
        if self.scraped { candidate.scraped_waiting_requests } else { candidate.queue }
    }
}
