//! `max-score-picker`: the candidate with the highest total.
//!
//! Totals within 10⁻⁶ are equal. Among equals a request that has a session, or whose prompt somebody holds, goes to the
//! highest rendezvous hash of (session or first block, endpoint), so that the same conversation finds the same
//! endpoint again; any other goes to the endpoint that has waited longest for a cold request. Always taking the first,
//! pure rotation and pure chance each have known failures: they herd, they scatter prefixes, they do both by turns.
//!
//! | parameter | unit | default |
//! |---|---|---|
//! | `random_ties` | 1 to let chance decide among equals, evenly | 0 |
//!
//! Source: the endpoint picker of the Gateway API Inference Extension, `max-score-picker` (there always with random ties); rendezvous hashing after
//! Thaler and Ravishankar, "A name-based mapping scheme for rendezvous" (1996).

use super::{Picker, TieRule};
use crate::Error;
use crate::config::PickerConfig;
use crate::endpoint::Candidate;
use crate::profile::RequestView;
use crate::scorer::largest_known;

/// Name in configurations.
pub const TYPE: &str = "max-score-picker";

/// Totals that differ by no more than this are equal.
const TIE_BAND: f32 = 1e-6;

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaxScorePicker {
    random_ties: bool,
}

impl MaxScorePicker {
    pub(crate) fn from_config(config: &PickerConfig) -> Result<Self, Error> {
        let mut parameters = config.parameters();
        let picker = Self { random_ties: parameters.switch("random_ties")? };
        parameters.finish()?;
        Ok(picker)
    }
}

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
        let rule = if self.random_ties {
            TieRule::Random
        } else if request.is_warm || request.has_session {
            TieRule::Rendezvous
        } else {
            TieRule::LeastRecentlyCold
        };
        let mut tied = 0;
        while ranking.len() < count.min(candidates.len()) {
            let least = best_free(totals, ranking) - TIE_BAND;
            if ranking.is_empty() {
                // In 32 bits, like the totals, it is a sum of vectors.
                tied = totals.iter().map(|&total| u32::from(total >= least)).sum::<u32>();
            }
            let is_equal = |(at, total): &(usize, &f32)| **total >= least && !ranking.contains(at);
            let mut equals = totals.iter().enumerate().filter(is_equal).map(|(at, _)| at);
            let is_unique = ranking.is_empty() && tied == 1;
            let chosen = match rule {
                _ if is_unique => equals.next(),
                TieRule::Random => {
                    equals.nth(request.random_below(ranking.len() as u64, equals.clone().count()))
                }
                TieRule::Rendezvous => {
                    let key = request.affinity_key;
                    equals
                        .max_by_key(|&at| candidates.get(at).map(|candidate| candidate.rendezvous_hash(key)))
                }
                _ => equals.min_by_key(|&at| candidates.get(at).map(|candidate| candidate.cold_rank)),
            };
            let Some(at) = chosen else { break };
            ranking.push(at);
        }
        if tied > 1 { rule } else { TieRule::Unique }
    }
}

/// The highest total of those that are not ranked yet.
fn best_free(totals: &[f32], ranking: &[usize]) -> f32 {
    if ranking.is_empty() {
        return largest_known(totals);
    }
    let free = totals.iter().enumerate().filter(|(at, _)| !ranking.contains(at));
    free.map(|(_, &total)| total).fold(f32::NEG_INFINITY, f32::max)
}
