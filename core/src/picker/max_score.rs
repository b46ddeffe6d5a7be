//! `max-score-picker`: the candidate with the highest total.
//!
//! Totals within 10⁻⁶ are equal. Among equals a request that has a session, or whose prompt somebody holds, goes to the
//! highest rendezvous hash of (session or first block, endpoint), so that the same conversation finds the same
//! endpoint again; any other goes to the endpoint that has waited longest for a cold request. Always taking the first,
//! pure rotation and pure chance each have known failures: they herd, they scatter prefixes, they do both by turns.
//!
//! Source: the endpoint picker of the Gateway API Inference Extension, `max-score-picker`; rendezvous hashing after
//! Thaler and Ravishankar, "A name-based mapping scheme for rendezvous" (1996).

use super::{Picker, TieRule};
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Name in configurations.
pub const TYPE: &str = "max-score-picker";

/// Totals that differ by no more than this are equal.
const TIE_BAND: f32 = 1e-6;

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaxScorePicker;

impl Picker for MaxScorePicker {
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
        let rule = if request.is_warm || request.has_session {
            TieRule::Rendezvous
        } else {
            TieRule::LeastRecentlyCold
        };
        let mut tied = 0;
        while ranking.len() < count.min(candidates.len()) {
            let free = || totals.iter().zip(candidates).enumerate().filter(|(at, _)| !ranking.contains(at));
            let best = free().map(|(_, (&total, _))| total).fold(f32::NEG_INFINITY, f32::max);
            let equals = free().filter(|(_, (total, _))| **total >= best - TIE_BAND);
            if ranking.is_empty() {
                tied = equals.clone().count();
            }
            let chosen = match rule {
                TieRule::Rendezvous => {
                    equals.max_by_key(|(_, (_, candidate))| rendezvous(request, candidate))
                }
                _ => equals.min_by_key(|(_, (_, candidate))| candidate.last_cold_pick),
            };
            let Some((at, _)) = chosen else { break };
            ranking.push(at);
        }
        if tied > 1 { rule } else { TieRule::Unique }
    }
}

/// A number that depends on the key and the endpoint's name alone, evenly distributed over both.
fn rendezvous(request: &RequestView, candidate: &Candidate) -> u64 {
    let product = u128::from(request.affinity_key ^ candidate.name_hash) * 0x9E37_79B9_7F4A_7C15;
    (product >> 64) as u64 ^ product as u64
}
