//! `round-robin-picker`: one candidate after the other, whatever the totals are.
//!
//! The request of number k goes to candidate `k mod n` of the n that the filters left, its fallbacks are those that
//! follow. Use it as a baseline. No parameters.
//!
//! Source: the oldest rule of load balancing.

use super::{Picker, TieRule};
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Name in configurations.
pub const TYPE: &str = "round-robin-picker";

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoundRobinPicker;

impl Picker for RoundRobinPicker {
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
        let first = (request.number % candidates.len().max(1) as u64) as usize;
        ranking.extend((0..candidates.len()).cycle().skip(first).take(count.min(candidates.len())));
        TieRule::RoundRobin
    }

    fn reads_totals(&self) -> bool {
        false
    }
}
