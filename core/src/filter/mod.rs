//! Step 4a: filters. Each says which candidates stay; what is left is scored.
//!
//! | type | drops |
//! |---|---|
//! | [`subset-filter`](subset) | what the request's subset does not allow |
//! | [`reachable-filter`](reachable) | endpoints that stopped answering, while another one answers |
//! | [`load-gate-filter`](load_gate) | endpoints whose queue costs more than their cached prefix saves |

pub mod load_gate;
pub mod reachable;
pub mod subset;

use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Decides which candidates may serve a request.
///
/// The contract: `keep` has one place per candidate, in their order, all `true` on entry; a filter sets the places of
/// those that it drops to `false`. If none is left, the pick fails with
/// [`NoEligibleEndpoint`](crate::Error::NoEligibleEndpoint) and this filter's name, so a filter that must not empty
/// the list takes care of that itself. A filter keeps no state between calls.
pub trait Filter: Send + Sync + std::fmt::Debug {
    /// The name in configurations, errors and explanations.
    fn name(&self) -> &'static str;

    /// Clears the place of every candidate that is to be dropped.
    fn filter(&self, request: &RequestView, candidates: &[Candidate], keep: &mut [bool]);
}
