//! `subset-filter`: keeps the endpoints that the request's subset names; all of them when it has none.
//!
//! Source: the endpoint-picker protocol of the Gateway API Inference Extension, subset hint.

use super::Filter;
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Name in configurations, errors and explanations.
pub const TYPE: &str = "subset-filter";

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubsetFilter;

impl Filter for SubsetFilter {
    fn name(&self) -> &'static str {
        TYPE
    }

    fn filter(&self, request: &RequestView, candidates: &[Candidate], keep: &mut [bool]) {
        if request.all_admissible {
            return;
        }
        for (keep, candidate) in keep.iter_mut().zip(candidates) {
            *keep = candidate.in_subset;
        }
    }
}
