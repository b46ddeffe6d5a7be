//! `prefix-affinity-filter`: keeps the holders of the prompt, unless the wait for them is far longer than elsewhere.
//!
//! A holder has `M_e / I ≥ min_share`, with M_e the matched and I the prompt's tokens. Holders stay alone unless
//! `min W over holders − min W > max_wait_seconds`, with W_e the predicted seconds before a prefill starts. Where nobody
//! is a holder, or the wait is too long, all stay. Waits that are not known are not compared.
//!
//! | parameter | unit | default |
//! |---|---|---|
//! | `min_share` | share of the prompt in [0, 1] | 0.8 |
//! | `max_wait_seconds` | seconds | 18 |
//!
//! Source: the llm-d inference scheduler, `prefix-cache-affinity-filter` (`affinityThreshold`, `maxTTFTPenaltyMs`), which
//! compares the best holder's wait with the best other endpoint's.

use super::{Filter, load_gate};
use crate::Error;
use crate::config::FilterConfig;
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Name in configurations, errors and explanations.
pub const TYPE: &str = "prefix-affinity-filter";

/// See the [module](self).
#[derive(Debug, Clone, PartialEq)]
pub struct PrefixAffinityFilter {
    min_share: f32,
    max_wait_seconds: f32,
}

impl PrefixAffinityFilter {
    pub(crate) fn from_config(config: &FilterConfig) -> Result<Self, Error> {
        let mut parameters = config.parameters();
        let filter = Self {
            min_share: parameters.number("min_share", 0.8, 0.0..=1.0)? as f32,
            max_wait_seconds: parameters.number("max_wait_seconds", 18.0, 0.0..=31_536_000.0)? as f32,
        };
        parameters.finish()?;
        Ok(filter)
    }
}

impl Filter for PrefixAffinityFilter {
    fn name(&self) -> &'static str {
        TYPE
    }

    fn filter(&self, request: &RequestView, candidates: &[Candidate], keep: &mut [bool]) {
        let least = (self.min_share * request.prompt_tokens as f32).max(1.0);
        let holds = |candidate: &Candidate| candidate.matched_tokens as f32 >= least;
        let holders = candidates.iter().filter(|candidate| holds(candidate));
        let (mut count, mut shortest) = (0, f32::INFINITY);
        for holder in holders {
            count += 1;
            shortest = shortest.min(holder.wait_seconds);
        }
        // The difference of two unknown waits is `NaN`, and that is not longer than anything.
        let too_long = shortest - load_gate::wait_range(candidates.iter()).0 > self.max_wait_seconds;
        if count == 0 || too_long {
            return;
        }
        for (keep, candidate) in keep.iter_mut().zip(candidates) {
            *keep = holds(candidate);
        }
    }
}
