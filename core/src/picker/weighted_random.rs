//! `weighted-random-picker`: by chance, in proportion to the totals.
//!
//! A candidate of total S_e is drawn with probability `S_e / Σ S`; where all totals are 0, all are equally likely. The
//! fallbacks are drawn in the same way from the rest. Where several schedulers see the same totals, this keeps them from
//! sending everything to the same endpoint at once. No parameters.
//!
//! Source: the endpoint picker of the Gateway API Inference Extension, `weighted-random-picker`, which draws from the
//! same distribution by the method of Efraimidis and Spirakis (2006).

use super::{Picker, TieRule};
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Name in configurations.
pub const TYPE: &str = "weighted-random-picker";

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightedRandomPicker;

impl Picker for WeightedRandomPicker {
    fn name(&self) -> &'static str {
        TYPE
    }

    fn pick(
        &self,
        request: &RequestView,
        candidates: &[Candidate],
        totals: &[f32],
        count: usize,
        ranking: &mut Vec<usize>,
    ) -> TieRule {
        while ranking.len() < count.min(candidates.len()) {
            let free = || totals.iter().enumerate().filter(|(at, _)| !ranking.contains(at));
            let sum: f64 = free().map(|(_, &total)| f64::from(total)).sum();
            let draw = ranking.len() as u64;
            let chosen = if sum > 0.0 {
                let mut left = request.random_share(draw) * sum;
                let drawn = free().find(|(_, total)| {
                    left -= f64::from(**total);
                    left < 0.0
                });
                // Rounding may leave a rest; it belongs to the last one that can be drawn.
                drawn.or_else(|| free().rfind(|(_, total)| **total > 0.0))
            } else {
                free().nth(request.random_below(draw, candidates.len() - ranking.len()))
            };
            let Some((at, _)) = chosen else { break };
            ranking.push(at);
        }
        TieRule::Random
    }
}
