//! What is measured. A case gives one figure or a few that belong together; their names begin with its name.

mod bindings;
mod cold;
mod events;
mod lookup;
mod memory;
mod pick;
mod programs;
mod scan;
mod selection;
mod threads;
mod trace;
mod update;

use anyhow::Result;

use crate::Settings;
use crate::measure::Sample;
use crate::report::{Figure, Goal, time_text};

pub use memory::Resident;

/// Something to measure.
pub struct Case {
    pub name: String,
    pub run: Run,
}

type Run = Box<dyn FnOnce(&Settings) -> Result<Outcome>>;

/// What came of a case.
pub enum Outcome {
    Measured(Vec<Figure>),
    /// Why it cannot run here.
    Skipped(String),
}

/// All cases, the quick ones first.
pub fn all() -> Vec<Case> {
    [
        scan::cases(),
        pick::cases(),
        bindings::cases(),
        selection::cases(),
        threads::cases(),
        lookup::cases(),
        update::cases(),
        trace::cases(),
        memory::cases(),
        cold::cases(),
        programs::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Case {
    fn new(name: impl Into<String>, run: impl FnOnce(&Settings) -> Result<Vec<Figure>> + 'static) -> Self {
        Self { name: name.into(), run: Box::new(|settings| run(settings).map(Outcome::Measured)) }
    }

    /// Whether a pattern means this case, or one of its figures.
    pub fn covers(&self, pattern: &str) -> bool {
        self.name.contains(pattern) || pattern.starts_with(&self.name)
    }
}

/// How many times faster we are than a peer, from nanoseconds per operation of both.
fn speed_up(name: impl Into<String>, goal: Goal, ours: &Sample, peer: &str, theirs: &Sample) -> Figure {
    let ratio = theirs.over(ours);
    Figure {
        name: name.into(),
        value: ratio.median(),
        unit: "×",
        goal,
        spread: ratio.spread(),
        detail: format!("{}, {peer} {}", time_text(ours.median()), time_text(theirs.median())),
    }
}
