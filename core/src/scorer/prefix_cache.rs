//! `prefix-cache-scorer`: the share of the prompt that an endpoint already holds.
//!
//! Score: `M_e / I`, with M_e the matched and I the prompt's tokens. With `length_weight` w > 0 long matches count
//! for more than short ones of the same share: `(1 − w) · M_e / I + w · min(M_e / scale, 1)²`.
//!
//! | parameter | unit | default |
//! |---|---|---|
//! | `length_weight` | share in [0, 1] | 0 |
//! | `scale_tokens` | tokens | 8192 |
//! | `whole_blocks` | 1 to take I as the tokens of the whole blocks that were looked up | 0 |
//!
//! Source: the endpoint picker of the Gateway API Inference Extension, `prefix-cache-scorer` (matched / total blocks).

use super::Scorer;
use crate::Error;
use crate::config::ScorerConfig;
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Name in configurations.
pub const TYPE: &str = "prefix-cache-scorer";

/// See the [module](self).
#[derive(Debug, Clone, PartialEq)]
pub struct PrefixCacheScorer {
    length_weight: f32,
    scale_tokens: f32,
    whole_blocks: bool,
}

impl PrefixCacheScorer {
    pub(crate) fn from_config(config: &ScorerConfig) -> Result<Self, Error> {
        let mut parameters = config.parameters();
        let scorer = Self {
            length_weight: parameters.number("length_weight", 0.0, 0.0..=1.0)? as f32,
            scale_tokens: parameters.number("scale_tokens", 8192.0, 1.0..=1e9)? as f32,
            whole_blocks: parameters.switch("whole_blocks")?,
        };
        parameters.finish()?;
        Ok(scorer)
    }
}

impl Scorer for PrefixCacheScorer {
    fn name(&self) -> &'static str {
        TYPE
    }

    fn score(&self, request: &RequestView, candidates: &[Candidate], out: &mut [f32]) {
        let tokens = if self.whole_blocks { request.hashed_tokens } else { request.prompt_tokens };
        // An empty prompt matches nothing, wherever it goes.
        let tokens = tokens.max(1) as f32;
        // Gathered first, so that the divisions are those of vectors.
        for (place, candidate) in out.iter_mut().zip(candidates) {
            *place = candidate.matched_tokens as f32;
        }
        if self.length_weight == 0.0 {
            out.iter_mut().for_each(|place| *place /= tokens);
            return;
        }
        for place in out {
            let matched = *place;
            let length = (matched / self.scale_tokens).min(1.0);
            *place = (1.0 - self.length_weight) * matched / tokens + self.length_weight * length * length;
        }
    }

    fn raw(&self, _request: &RequestView, candidate: &Candidate) -> f32 {
        candidate.matched_tokens as f32
    }
}
