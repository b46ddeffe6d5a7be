//! `power-of-two-filter`: keeps two candidates, the home of the request and one drawn by chance.
//!
//! The home has the highest rendezvous hash of (session or first block of the prompt, endpoint), so that related
//! requests meet there without any endpoint's cache being known; the other one is drawn evenly from the rest. What is
//! scored afterwards is two candidates, however many endpoints there are. No parameters.
//!
//! Source: Mitzenmacher, "The power of two choices in randomized load balancing" (2001); rendezvous hashing after Thaler
//! and Ravishankar, "A name-based mapping scheme for rendezvous" (1996).

use super::Filter;
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Name in configurations, errors and explanations.
pub const TYPE: &str = "power-of-two-filter";

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PowerOfTwoFilter;

impl Filter for PowerOfTwoFilter {
    fn name(&self) -> &'static str {
        TYPE
    }

    fn filter(&self, request: &RequestView, candidates: &[Candidate], keep: &mut [bool]) {
        if candidates.len() <= 2 {
            return;
        }
        let hash = |candidate: &Candidate| candidate.rendezvous_hash(request.affinity_key);
        let home = candidates.iter().enumerate().max_by_key(|(_, candidate)| hash(candidate));
        let home = home.map_or(0, |(at, _)| at);
        let drawn = request.random_below(0, candidates.len() - 1);
        let other = if drawn < home { drawn } else { drawn + 1 };
        for (at, keep) in keep.iter_mut().enumerate() {
            *keep = at == home || at == other;
        }
    }
}
