//! `SchedulerBuilder`: a scheduler with plugins that were written elsewhere.

use super::Scheduler;
use crate::filter::Filter;
use crate::picker::Picker;
use crate::profile::CustomPlugins;
use crate::scorer::Scorer;
use crate::{Error, SchedulerConfig};

/// Makes a [`Scheduler`] from a configuration and plugins that are not part of this crate.
///
/// Use this for a rule of your own; [`Scheduler::new`] is enough for the built-in ones.
///
/// # Example
///
/// ```
/// use p3sched::endpoint::Candidate;
/// use p3sched::profile::RequestView;
/// use p3sched::scorer::Scorer;
/// use p3sched::{Scheduler, SchedulerConfig};
///
/// /// Urgent requests avoid every endpoint that already serves one of ours.
/// #[derive(Debug)]
/// struct UrgentScorer;
///
/// impl Scorer for UrgentScorer {
///     fn name(&self) -> &'static str {
///         "urgent-scorer"
///     }
///
///     fn score(&self, request: &RequestView, candidates: &[Candidate], out: &mut [f32]) {
///         for (place, candidate) in out.iter_mut().zip(candidates) {
///             *place = f32::from(request.priority <= 0 || candidate.requests_in_flight == 0);
///         }
///     }
///
///     fn raw(&self, _request: &RequestView, candidate: &Candidate) -> f32 {
///         candidate.requests_in_flight as f32
///     }
/// }
///
/// let scheduler = Scheduler::builder(SchedulerConfig::default()).scorer(Box::new(UrgentScorer), 2.0).build()?;
/// # Ok::<(), p3sched::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct SchedulerBuilder {
    config: SchedulerConfig,
    custom: CustomPlugins,
}

impl SchedulerBuilder {
    pub(super) fn new(config: SchedulerConfig) -> Self {
        Self { config, custom: CustomPlugins::default() }
    }

    /// Adds a scorer to those of the configuration; what it scores is multiplied by `weight`, 0 or more.
    pub fn scorer(mut self, scorer: Box<dyn Scorer>, weight: f64) -> Self {
        self.custom.scorers.push((scorer, weight));
        self
    }

    /// Adds a filter that runs after those of the configuration.
    pub fn filter(mut self, filter: Box<dyn Filter>) -> Self {
        self.custom.filters.push(filter);
        self
    }

    /// Replaces the picker of the configuration.
    pub fn picker(mut self, picker: Box<dyn Picker>) -> Self {
        self.custom.picker = Some(picker);
        self
    }

    /// Makes the scheduler, without endpoints.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] names the value that cannot work and what would be right.
    pub fn build(self) -> Result<Scheduler, Error> {
        Scheduler::with_plugins(self.config, self.custom)
    }
}
