//! `lora-filter`: drops endpoints that would have to evict another adapter for the request's, while one need not.
//!
//! Drops an endpoint whose places are all held by other adapters, and one that reports no adapters at all, as long as any
//! endpoint has the adapter, has it waiting or has room for it. A request for a plain model drops nothing. No parameters.
//!
//! Source: after the former `lora-affinity-filter` of the Gateway API Inference Extension's endpoint picker, which chose by
//! chance between endpoints that have the adapter and those with room for it.

use super::Filter;
use crate::endpoint::{AdapterState, Candidate};
use crate::profile::RequestView;

/// Name in configurations, errors and explanations.
pub const TYPE: &str = "lora-filter";

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoraFilter;

impl Filter for LoraFilter {
    fn name(&self) -> &'static str {
        TYPE
    }

    fn filter(&self, _request: &RequestView, candidates: &[Candidate], keep: &mut [bool]) {
        if !candidates.iter().any(can_serve) {
            return;
        }
        for (keep, candidate) in keep.iter_mut().zip(candidates) {
            *keep = can_serve(candidate);
        }
    }
}

fn can_serve(candidate: &Candidate) -> bool {
    !matches!(candidate.adapter, AdapterState::Full | AdapterState::Unknown)
}
