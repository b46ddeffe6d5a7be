//! `load-gate-filter`: drops an endpoint whose predicted wait costs clearly more than its cached prefix saves.
//!
//! The gate is `load_gate_seconds` of the configuration. Dropped if `W_e − min W > gate + M_e / ρ_e`, with W_e the predicted seconds before a prefill starts, M_e the matched
//! tokens and ρ_e the prefill rate in tokens per second. Endpoints without a known rate stay. The endpoint with the
//! shortest wait always stays, so the list is never emptied.
//!
//! Every load score is capped at 1, so no weighted sum lets a queue outweigh a large match. The gate does, per endpoint:
//! when the home of a hot prefix is too busy, the next endpoint serves the request and learns the prefix. It is
//! seconds wide because a gate at break-even scatters prefixes over the fleet.

use super::Filter;
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Name in configurations, errors and explanations.
pub const TYPE: &str = "load-gate-filter";

/// See the [module](self).
#[derive(Debug, Clone, PartialEq)]
pub struct LoadGateFilter {
    /// Seconds of predicted wait that a prefix's home may be behind before it is dropped.
    pub gate_seconds: f32,
}

impl LoadGateFilter {
    /// Seconds that are left before the gate drops this candidate; negative if it does, `NaN` without a known rate.
    pub(crate) fn margin_seconds(&self, candidate: &Candidate, shortest_wait: f32) -> f32 {
        let saved = candidate.matched_tokens as f32 / candidate.prefill_tokens_per_second;
        self.gate_seconds + saved - (candidate.wait_seconds - shortest_wait)
    }
}

/// The shortest and the longest known wait in seconds; infinite, the wrong way round, if none is known.
pub(crate) fn wait_range<'a>(candidates: impl Iterator<Item = &'a Candidate>) -> (f32, f32) {
    // A comparison with `NaN` is false: what is not known does not count.
    candidates
        .map(|candidate| candidate.wait_seconds)
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(min, max), wait| {
            (if wait < min { wait } else { min }, if wait > max { wait } else { max })
        })
}

impl Filter for LoadGateFilter {
    fn name(&self) -> &'static str {
        TYPE
    }

    fn filter(&self, request: &RequestView, candidates: &[Candidate], keep: &mut [bool]) {
        if request.waits_are_close {
            return;
        }
        let (shortest, longest) = wait_range(candidates.iter());
        // The common case: nobody is far behind, whatever is saved.
        if longest - shortest <= self.gate_seconds {
            return;
        }
        for (keep, candidate) in keep.iter_mut().zip(candidates) {
            // A comparison with `NaN` is false: what is not known is not dropped.
            let is_too_long = self.margin_seconds(candidate, shortest) < 0.0;
            *keep = !is_too_long;
        }
    }
}
