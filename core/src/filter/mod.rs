//! Step 4a: filters. Each says which candidates stay; what is left is scored.
//!
//! | type | drops |
//! |---|---|
//! | [`subset-filter`](subset) | what the request's subset does not allow |
//! | [`role-filter`](role) | endpoints that only do prefill for others |
//! | [`reachable-filter`](reachable) | endpoints that stopped answering, while another one answers |
//! | [`lora-filter`](lora) | endpoints that would have to evict another adapter for the request's |
//! | [`load-gate-filter`](load_gate) | endpoints whose queue costs more than their cached prefix saves |
//! | [`prefix-affinity-filter`](prefix_affinity) | all but the holders of the prompt, unless these are far busier |
//! | [`power-of-two-filter`](power_of_two) | all but the request's home and one drawn by chance |
//!
//! To add one: copy a file, add a line here, in [`build`] and in [`TYPES`], and a row to `testdata/filters.json`. One that
//! is written outside of this crate plugs in by [`SchedulerBuilder::filter`](crate::SchedulerBuilder::filter).

pub mod load_gate;
pub mod lora;
pub mod power_of_two;
pub mod prefix_affinity;
pub mod reachable;
pub mod role;
pub mod subset;

use crate::Error;
use crate::config::{FilterConfig, unknown_name};
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Type names of all filters, as they are written in a configuration.
pub const TYPES: [&str; 7] = [
    subset::TYPE,
    role::TYPE,
    reachable::TYPE,
    lora::TYPE,
    load_gate::TYPE,
    prefix_affinity::TYPE,
    power_of_two::TYPE,
];

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

/// Makes a filter from its configuration; `load_gate_seconds` is for the load gate.
///
/// Use this to try a filter on a table of values; a [`Scheduler`](crate::Scheduler) makes its own.
///
/// # Errors
///
/// [`Error::InvalidConfig`] names an unknown type or parameter, or a parameter out of its range.
pub fn build(config: &FilterConfig, load_gate_seconds: f64) -> Result<Box<dyn Filter>, Error> {
    let filter: Box<dyn Filter> = match config.filter_type.as_str() {
        prefix_affinity::TYPE => {
            return Ok(Box::new(prefix_affinity::PrefixAffinityFilter::from_config(config)?));
        }
        subset::TYPE => Box::new(subset::SubsetFilter),
        role::TYPE => Box::new(role::RoleFilter),
        reachable::TYPE => Box::new(reachable::ReachableFilter),
        lora::TYPE => Box::new(lora::LoraFilter),
        load_gate::TYPE => Box::new(load_gate::LoadGateFilter { gate_seconds: load_gate_seconds as f32 }),
        power_of_two::TYPE => Box::new(power_of_two::PowerOfTwoFilter),
        unknown => return Err(unknown_name("filter type", unknown, &TYPES)),
    };
    config.parameters().finish()?;
    Ok(filter)
}
