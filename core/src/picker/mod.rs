//! Step 4c: pickers. One chooses among the scored candidates and ranks the fallbacks.
//!
//! | type | chooses |
//! |---|---|
//! | [`max-score-picker`](max_score) | the highest total |
//! | [`weighted-random-picker`](weighted_random) | by chance, in proportion to the totals |
//! | [`random-picker`](random) | by chance, whatever the totals are |
//! | [`round-robin-picker`](round_robin) | in turn, whatever the totals are |
//!
//! Chance is an input: a picker draws from the request's [random numbers](RequestView::random_below), which depend on the
//! configured seed and the number of the request alone, so that the same run picks the same endpoints again.
//!
//! To add one: copy a file, add a line here, in [`build`] and in [`TYPES`], and a row to `testdata/pickers.json`. One that
//! is written outside of this crate plugs in by [`SchedulerBuilder::picker`](crate::SchedulerBuilder::picker).

pub mod max_score;
pub mod random;
pub mod round_robin;
pub mod weighted_random;

use serde::Serialize;

use crate::Error;
use crate::config::{PickerConfig, unknown_name};
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Type names of all pickers, as they are written in a configuration.
pub const TYPES: [&str; 4] = [max_score::TYPE, weighted_random::TYPE, random::TYPE, round_robin::TYPE];

/// How the first among equals was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum TieRule {
    /// One candidate was better than all others.
    Unique,
    /// Several were equal; the highest rendezvous hash of (session or prefix, endpoint) decided.
    Rendezvous,
    /// Several were equal for a prompt that nobody holds; the one that waited longest for a cold request got it.
    LeastRecentlyCold,
    /// Chance decided: among equals, or among all where the picker draws.
    Random,
    /// The number of the request decided, among all.
    RoundRobin,
}

/// Chooses among scored candidates.
///
/// The contract: `candidates` is not empty, `totals` has one finite value per candidate, in their order. The picker
/// writes at most `count` distinct positions to `ranking`, the chosen one first, then the fallbacks in the order in
/// which they are to be tried.
pub trait Picker: Send + Sync + std::fmt::Debug {
    /// The name in configurations and explanations.
    fn name(&self) -> &'static str;

    /// Ranks the best candidates and says how a tie for the first place was broken.
    fn pick(
        &self,
        request: &RequestView,
        candidates: &[Candidate],
        totals: &[f32],
        count: usize,
        ranking: &mut Vec<usize>,
    ) -> TieRule;

    /// Whether it looks at the totals; if not, a profile needs no scorers.
    fn reads_totals(&self) -> bool {
        true
    }
}

/// Makes a picker from its configuration.
///
/// Use this to try a picker on a table of values; a [`Scheduler`](crate::Scheduler) makes its own.
///
/// # Errors
///
/// [`Error::InvalidConfig`] names an unknown type or parameter, or a parameter out of its range.
pub fn build(config: &PickerConfig) -> Result<Box<dyn Picker>, Error> {
    let picker: Box<dyn Picker> = match config.picker_type.as_str() {
        max_score::TYPE => return Ok(Box::new(max_score::MaxScorePicker::from_config(config)?)),
        weighted_random::TYPE => Box::new(weighted_random::WeightedRandomPicker),
        random::TYPE => Box::new(random::RandomPicker),
        round_robin::TYPE => Box::new(round_robin::RoundRobinPicker),
        unknown => return Err(unknown_name("picker type", unknown, &TYPES)),
    };
    config.parameters().finish()?;
    Ok(picker)
}
