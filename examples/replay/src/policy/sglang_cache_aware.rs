//! `sglang-cache-aware`: the longest match, unless the load is out of balance.
//!
//! Out of balance if `max r − min r > balance_abs_threshold` and `max r > balance_rel_threshold · min r`, with r_e the
//! requests in flight: then the fewest of them. Else, if the best match is more than `cache_threshold` of the prompt, the
//! endpoint that has it; else the endpoint with the smallest tree.
//!
//! | parameter | default |
//! |---|---|
//! | `cache_threshold` | 0.3 |
//! | `balance_abs_threshold` | 64 |
//! | `balance_rel_threshold` | 1.5 |
//!
//! Source: `sgl-model-gateway/src/policies/cache_aware.rs` of [SGLang](https://github.com/sgl-project/sglang), with the
//! defaults of its launcher; vLLM's router has the same rule. The size of an endpoint's tree is taken to be the uncached
//! tokens that it was sent; theirs also shrinks by eviction. Among equals the first, as there.

use std::sync::{Mutex, PoisonError};

use p3sched::endpoint::Candidate;
use p3sched::picker::{Picker, TieRule};
use p3sched::profile::RequestView;

/// Share of the prompt above which a match counts.
pub const CACHE_THRESHOLD: f64 = 0.3;
/// Requests by which the busiest endpoint may be ahead.
pub const BALANCE_ABS_THRESHOLD: f64 = 64.0;
/// How many times as many requests the busiest endpoint may have.
pub const BALANCE_REL_THRESHOLD: f64 = 1.5;

/// See the [module](self).
#[derive(Debug)]
pub struct SglangCacheAware {
    cache_threshold: f64,
    balance_abs_threshold: f64,
    balance_rel_threshold: f64,
    /// Tokens in each endpoint's tree, by [`Candidate::endpoint`].
    tree_tokens: Mutex<Vec<u64>>,
}

impl SglangCacheAware {
    /// A picker with these thresholds and empty trees.
    pub fn new(cache_threshold: f64, balance_abs_threshold: f64, balance_rel_threshold: f64) -> Self {
        let tree_tokens = Mutex::default();
        Self { cache_threshold, balance_abs_threshold, balance_rel_threshold, tree_tokens }
    }

    fn is_out_of_balance(&self, candidates: &[Candidate]) -> bool {
        let loads = || candidates.iter().map(|candidate| f64::from(candidate.requests_in_flight));
        let (max, min) = (loads().fold(0.0, f64::max), loads().fold(f64::INFINITY, f64::min));
        max - min > self.balance_abs_threshold && max > self.balance_rel_threshold * min
    }
}

impl Clone for SglangCacheAware {
    /// The same thresholds, with empty trees.
    fn clone(&self) -> Self {
        Self::new(self.cache_threshold, self.balance_abs_threshold, self.balance_rel_threshold)
    }
}

impl PartialEq for SglangCacheAware {
    fn eq(&self, other: &Self) -> bool {
        let thresholds = |picker: &Self| {
            (picker.cache_threshold, picker.balance_abs_threshold, picker.balance_rel_threshold)
        };
        thresholds(self) == thresholds(other)
    }
}

impl Picker for SglangCacheAware {
    fn name(&self) -> &'static str {
        "sglang-cache-aware"
    }

    fn pick(
        &self,
        request: &RequestView,
        candidates: &[Candidate],
        _totals: &[f32],
        _count: usize,
        ranking: &mut Vec<usize>,
    ) -> TieRule {
        let mut trees = self.tree_tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let tree = |candidate: &Candidate| trees.get(candidate.endpoint as usize).copied().unwrap_or(0);
        let by = |key: &dyn Fn(&Candidate) -> u64| {
            candidates.iter().enumerate().min_by_key(|(_, candidate)| key(candidate)).map_or(0, |(at, _)| at)
        };
        let holder = by(&|candidate| u64::from(u32::MAX - candidate.matched_tokens));
        let matched = candidates.get(holder).map_or(0, |candidate| candidate.matched_tokens);
        let chosen = if self.is_out_of_balance(candidates) {
            by(&|candidate| u64::from(candidate.requests_in_flight))
        } else if f64::from(matched) > self.cache_threshold * f64::from(request.prompt_tokens) {
            holder
        } else {
            by(&tree)
        };
        if let Some(candidate) = candidates.get(chosen) {
            let slot = candidate.endpoint as usize;
            if trees.len() <= slot {
                trees.resize(slot + 1, 0);
            }
            if let Some(tokens) = trees.get_mut(slot) {
                *tokens += u64::from(candidate.uncached_tokens(request));
            }
        }
        ranking.push(chosen);
        TieRule::Unique
    }

    fn reads_totals(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests_support::{candidates, pick, request};

    #[test]
    fn balance_comes_first_then_the_match_then_the_smallest_tree() {
        let picker = SglangCacheAware::new(0.3, 64.0, 1.5);
        // (matched tokens, requests in flight) of each endpoint, a prompt of 100 tokens.
        assert_eq!(pick(&picker, &request(100), &candidates(&[(10, 0), (31, 64)])), 1, "more than 0.3 match");
        assert_eq!(pick(&picker, &request(100), &candidates(&[(10, 0), (31, 65)])), 0, "65 more in flight");
        assert_eq!(
            pick(&picker, &request(100), &candidates(&[(0, 140), (90, 205)])),
            1,
            "less than 1.5 times"
        );
        // The trees have grown by 90 on the first, 69 and 10 on the second.
        assert_eq!(pick(&picker, &request(100), &candidates(&[(30, 0), (0, 0)])), 1, "0.3 is no match");
        assert_eq!(
            pick(&picker, &request(100), &candidates(&[(0, 0), (0, 0)])),
            0,
            "the other tree has 179 now"
        );
    }
}
