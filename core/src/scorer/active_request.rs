//! `active-request-scorer`: idle endpoints first, then by own requests in flight against the busiest.
//!
//! Score: 1 if `r ≤ idle`, else `(max r − r_e) / max r · busy_max`, with r the own requests in flight. With `busy_max`
//! below 1 an idle endpoint is better than any busy one by at least the difference. Needs no metrics.
//!
//! | parameter | unit | default |
//! |---|---|---|
//! | `idle_requests` | requests up to which an endpoint is idle | 0 |
//! | `busy_max` | highest score of a busy endpoint, in [0, 1] | 1 |
//!
//! Source: the llm-d inference scheduler, `active-request-scorer`.

use super::Scorer;
use crate::Error;
use crate::config::ScorerConfig;
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Name in configurations.
pub const TYPE: &str = "active-request-scorer";

/// See the [module](self).
#[derive(Debug, Clone, PartialEq)]
pub struct ActiveRequestScorer {
    idle_requests: f32,
    busy_max: f32,
}

impl ActiveRequestScorer {
    pub(crate) fn from_config(config: &ScorerConfig) -> Result<Self, Error> {
        let mut parameters = config.parameters();
        let scorer = Self {
            idle_requests: parameters.number("idle_requests", 0.0, 0.0..=1e9)? as f32,
            busy_max: parameters.number("busy_max", 1.0, 0.0..=1.0)? as f32,
        };
        parameters.finish()?;
        Ok(scorer)
    }
}

impl Scorer for ActiveRequestScorer {
    fn name(&self) -> &'static str {
        TYPE
    }

    fn score(&self, _request: &RequestView, candidates: &[Candidate], out: &mut [f32]) {
        let busiest =
            candidates.iter().map(|candidate| candidate.requests_in_flight).max().unwrap_or(0) as f32;
        for (place, candidate) in out.iter_mut().zip(candidates) {
            let active = candidate.requests_in_flight as f32;
            let is_idle = active <= self.idle_requests;
            *place = if is_idle { 1.0 } else { (busiest - active) / busiest * self.busy_max };
        }
    }

    fn raw(&self, _request: &RequestView, candidate: &Candidate) -> f32 {
        candidate.requests_in_flight as f32
    }
}
