//! Step 4c: pickers. One chooses among the scored candidates and ranks the fallbacks.
//!
//! | type | chooses |
//! |---|---|
//! | [`max-score-picker`](max_score) | the highest total |

pub mod max_score;

use serde::Serialize;

use crate::Error;
use crate::config::PickerConfig;
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Type names of all pickers, as they are written in a configuration.
pub const TYPES: [&str; 1] = [max_score::TYPE];

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
}

/// Makes a picker from its configuration.
pub(crate) fn build(config: &PickerConfig) -> Result<Box<dyn Picker>, Error> {
    match config.picker_type.as_str() {
        max_score::TYPE => Ok(Box::new(max_score::MaxScorePicker)),
        unknown => Err(Error::InvalidConfig(format!(
            "unknown picker type `{unknown}`, expected one of: {}",
            TYPES.join(", ")
        ))),
    }
}
