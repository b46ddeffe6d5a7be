//! `role-filter`: drops endpoints that only do prefill for others.
//!
//! With prefill and decode on different replicas a request goes to a decode replica, which has the prefill done
//! elsewhere. The role is the label `llm-d.ai/role` of the [`Endpoint`](crate::Endpoint), or else `role`; the value
//! `prefill` is dropped, any other (`decode`, `both`) and none stay. No parameters.
//!
//! Source: the llm-d inference scheduler, `decode-filter`.

use super::Filter;
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Name in configurations, errors and explanations.
pub const TYPE: &str = "role-filter";

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleFilter;

impl Filter for RoleFilter {
    fn name(&self) -> &'static str {
        TYPE
    }

    fn filter(&self, request: &RequestView, candidates: &[Candidate], keep: &mut [bool]) {
        if request.all_admissible {
            return;
        }
        for (keep, candidate) in keep.iter_mut().zip(candidates) {
            *keep = !candidate.prefill_only;
        }
    }
}
