//! `random-picker`: any candidate, all equally likely, whatever the totals are.
//!
//! Use it as a baseline, or with filters that have left only good candidates. The fallbacks are drawn in the same way
//! from the rest. No parameters.
//!
//! Source: the endpoint picker of the Gateway API Inference Extension, `random-picker`.

use super::{Picker, TieRule};
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Name in configurations.
pub const TYPE: &str = "random-picker";

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RandomPicker;

impl Picker for RandomPicker {
    fn name(&self) -> &'static str {
        TYPE
    }

    fn pick(
        &self,
        request: &RequestView,
        candidates: &[Candidate],
        _totals: &[f32],
        count: usize,
        ranking: &mut Vec<usize>,
    ) -> TieRule {
        while ranking.len() < count.min(candidates.len()) {
            let free = candidates.len() - ranking.len();
            let drawn = request.random_below(ranking.len() as u64, free);
            let Some(at) = (0..candidates.len()).filter(|at| !ranking.contains(at)).nth(drawn) else { break };
            ranking.push(at);
        }
        TieRule::Random
    }

    fn reads_totals(&self) -> bool {
        false
    }
}
