//! `dynamo`: the fewest blocks to prefill and to decode.
//!
//! Cost: `overlap_weight · (w_e + I − M_e) / B + (t_e + I) / B`, with w_e the uncached tokens that wait for their prefill,
//! I the prompt's tokens, M_e those that the endpoint holds, t_e the prompt tokens in flight and B the tokens of a
//! block, which scales all costs alike. The smallest wins; among equals the one that waited longest for a cold request.
//!
//! | parameter | default |
//! |---|---|
//! | `overlap_weight` | 1 |
//!
//! Source: `lib/kv-router/src/scheduling/selector.rs` of [Dynamo](https://github.com/ai-dynamo/dynamo) with its default
//! temperature of 0. Theirs counts blocks that requests in flight share once and tokens of answers too; here each
//! request's prompt counts.

use p3sched::endpoint::Candidate;
use p3sched::picker::{Picker, TieRule};
use p3sched::profile::RequestView;

/// See the [module](self).
#[derive(Debug, Clone, PartialEq)]
pub struct Dynamo {
    /// What blocks to prefill count against blocks to decode.
    pub overlap_weight: f32,
}

impl Dynamo {
    fn cost(&self, request: &RequestView, candidate: &Candidate) -> f64 {
        let prefill = f64::from(candidate.waiting_tokens) + f64::from(candidate.uncached_tokens(request));
        let decode = candidate.tokens_in_flight as f64 + f64::from(request.prompt_tokens);
        f64::from(self.overlap_weight) * prefill + decode
    }
}

impl Picker for Dynamo {
    fn name(&self) -> &'static str {
        "dynamo"
    }

    fn pick(
        &self,
        request: &RequestView,
        candidates: &[Candidate],
        _totals: &[f32],
        _count: usize,
        ranking: &mut Vec<usize>,
    ) -> TieRule {
        let costs = candidates.iter().map(|candidate| self.cost(request, candidate));
        let best = candidates.iter().zip(costs).enumerate().min_by(|(_, (a, cost_a)), (_, (b, cost_b))| {
            cost_a.total_cmp(cost_b).then(a.cold_rank.cmp(&b.cold_rank))
        });
        ranking.extend(best.map(|(at, _)| at));
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
    fn prefill_and_decode_weigh_the_same() {
        let mut endpoints = candidates(&[(60, 0), (0, 0)]);
        endpoints[0].tokens_in_flight = 50;
        // 40 + 150 against 100 + 100.
        assert_eq!(pick(&Dynamo { overlap_weight: 1.0 }, &request(100), &endpoints), 0);
        endpoints[0].waiting_tokens = 11.0;
        assert_eq!(pick(&Dynamo { overlap_weight: 1.0 }, &request(100), &endpoints), 1);
        assert_eq!(pick(&Dynamo { overlap_weight: 2.0 }, &request(100), &endpoints), 0);
    }
}
