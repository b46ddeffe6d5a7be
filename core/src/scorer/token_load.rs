//! `token-load-scorer`: prompt tokens in flight, this request's share included.
//!
//! Score: `1 − min(t, T) / T`, with t the prompt tokens of own requests in flight on the endpoint plus the tokens of
//! this request that it would have to compute. Needs no metrics.
//!
//! | parameter | unit | default |
//! |---|---|---|
//! | `threshold_tokens` T | tokens | 4 194 304 |
//!
//! Source: the llm-d inference scheduler, `token-load-scorer`.

use super::Scorer;
use crate::Error;
use crate::config::ScorerConfig;
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Name in configurations.
pub const TYPE: &str = "token-load-scorer";

/// See the [module](self).
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLoadScorer {
    threshold_tokens: f32,
}

impl TokenLoadScorer {
    pub(crate) fn from_config(config: &ScorerConfig) -> Result<Self, Error> {
        let mut parameters = config.parameters();
        let scorer =
            Self { threshold_tokens: parameters.number("threshold_tokens", 4_194_304.0, 1.0..=1e15)? as f32 };
        parameters.finish()?;
        Ok(scorer)
    }
}

impl Scorer for TokenLoadScorer {
    fn name(&self) -> &'static str {
        TYPE
    }

    fn score(&self, request: &RequestView, candidates: &[Candidate], out: &mut [f32]) {
        for (place, candidate) in out.iter_mut().zip(candidates) {
            *place = 1.0 - (self.raw(request, candidate) / self.threshold_tokens).min(1.0);
        }
    }

    fn raw(&self, request: &RequestView, candidate: &Candidate) -> f32 {
        candidate.tokens_in_flight as f32 + candidate.uncached_tokens(request) as f32
    }
}
