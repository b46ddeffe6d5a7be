//! `load-aware-scorer`: an empty queue is worth one half, a queue at the threshold nothing.
//!
//! Score: 0.5 if q = 0, else `0.5 · (1 − min(q, T) / T)`, with q the requests that wait: as scraped, corrected by own
//! picks since. The highest score is 0.5, so that a profile can weigh it against scores that reach 1.
//!
//! | parameter | unit | default |
//! |---|---|---|
//! | `threshold_requests` T | waiting requests | 128 |
//!
//! Source: the llm-d inference scheduler, `load-aware-scorer`, there over the scraped `num_requests_waiting` alone.

use super::Scorer;
use crate::Error;
use crate::config::ScorerConfig;
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Name in configurations.
pub const TYPE: &str = "load-aware-scorer";

/// See the [module](self).
#[derive(Debug, Clone, PartialEq)]
pub struct LoadAwareScorer {
    threshold_requests: f32,
}

impl LoadAwareScorer {
    pub(crate) fn from_config(config: &ScorerConfig) -> Result<Self, Error> {
        let mut parameters = config.parameters();
        let scorer =
            Self { threshold_requests: parameters.number("threshold_requests", 128.0, 1.0..=1e9)? as f32 };
        parameters.finish()?;
        Ok(scorer)
    }
}

impl Scorer for LoadAwareScorer {
    fn name(&self) -> &'static str {
        TYPE
    }

    fn score(&self, _request: &RequestView, candidates: &[Candidate], out: &mut [f32]) {
        for (place, candidate) in out.iter_mut().zip(candidates) {
            // `f32::min` would turn a missing value into the threshold.
            let waiting = candidate.waiting_requests;
            let over = waiting > self.threshold_requests;
            *place = if over { 0.0 } else { 0.5 * (1.0 - waiting / self.threshold_requests) };
        }
    }

    fn raw(&self, _request: &RequestView, candidate: &Candidate) -> f32 {
        candidate.waiting_requests
    }
}
