//! `reachable-filter`: drops endpoints that stopped answering their scrapes, while at least one still answers.
//!
//! When none answers, all stay: the scraper may be what is broken, and a pick that fails serves nobody.

use super::Filter;
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Name in configurations, errors and explanations.
pub const TYPE: &str = "reachable-filter";

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReachableFilter;

impl Filter for ReachableFilter {
    fn name(&self) -> &'static str {
        TYPE
    }

    fn filter(&self, request: &RequestView, candidates: &[Candidate], keep: &mut [bool]) {
        if request.all_admissible {
            return;
        }
        if !candidates.iter().any(|candidate| candidate.reachable) {
            return;
        }
        for (keep, candidate) in keep.iter_mut().zip(candidates) {
            *keep = candidate.reachable;
        }
    }
}
