//! Step 4: a profile is filters, then weighted scorers, then a picker.
//!
//! `S_e = Σ weight · score`, not divided by the weights. The contracts of [`Scorer`], [`Filter`] and [`Picker`] are
//! enforced here, so that no plugin has to repeat them.

use crate::Error;
use crate::config::SchedulerConfig;
use crate::endpoint::Candidate;
use crate::filter::Filter;
use crate::filter::load_gate::LoadGateFilter;
use crate::filter::reachable::ReachableFilter;
use crate::filter::subset::SubsetFilter;
use crate::picker::{self, Picker, TieRule};
use crate::scorer::{self, Scorer};

/// What plugins see of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestView {
    /// Tokens of the prompt, I; an estimate where the prompt is text.
    pub prompt_tokens: u32,
    /// Stands for the session, or else for the head of the prompt, in rendezvous hashing.
    pub affinity_key: u64,
    /// Whether the request belongs to a session.
    pub has_session: bool,
    /// Whether any endpoint holds a part of the prompt.
    pub is_warm: bool,
    /// Larger is more urgent.
    pub priority: i32,
}

/// Σ weight · score, in f32 and in the order of the scorers.
///
/// # Example
///
/// ```
/// let total = p3sched::profile::weighted_total(&[0.9, 0.7, 0.8], &[3.0, 1.0, 1.0]);
/// assert!((total - 4.2).abs() < 1e-6);
/// ```
pub fn weighted_total(scores: &[f32], weights: &[f32]) -> f32 {
    scores.iter().zip(weights).map(|(score, weight)| score * weight).sum()
}

/// The plugins of a scheduler, in the order in which they run.
#[derive(Debug)]
pub(crate) struct Profile {
    filters: Vec<Box<dyn Filter>>,
    scorers: Vec<Box<dyn Scorer>>,
    weights: Vec<f32>,
    picker: Box<dyn Picker>,
    /// How many endpoints a decision names: the chosen one and its fallbacks.
    ranked: usize,
    pub(crate) load_gate: Option<LoadGateFilter>,
}

/// What one run of a profile reads and writes; kept between runs so that none allocates.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    /// On entry every endpoint, afterwards those that passed the filters.
    pub(crate) candidates: Vec<Candidate>,
    /// What the filters dropped, and which one.
    pub(crate) dropped: Vec<(Candidate, &'static str)>,
    /// Positions in `candidates`: the chosen one, then the fallbacks.
    pub(crate) ranking: Vec<usize>,
    /// Sum of each candidate.
    pub(crate) totals: Vec<f32>,
    /// One row per scorer, one place per candidate.
    scores: Vec<f32>,
    keep: Vec<bool>,
}

impl Profile {
    pub(crate) fn from_config(config: &SchedulerConfig) -> Result<Self, Error> {
        let load_gate =
            config.load_gate_seconds.map(|seconds| LoadGateFilter { gate_seconds: seconds as f32 });
        let mut filters: Vec<Box<dyn Filter>> = vec![Box::new(SubsetFilter), Box::new(ReachableFilter)];
        if let Some(gate) = &load_gate {
            filters.push(Box::new(gate.clone()));
        }
        Ok(Self {
            filters,
            scorers: config.scorers.iter().map(scorer::build).collect::<Result<_, _>>()?,
            weights: config.scorers.iter().map(|scorer| scorer.weight as f32).collect(),
            picker: picker::build(&config.picker)?,
            ranked: config.fallbacks.saturating_add(1),
            load_gate,
        })
    }

    /// Filters, scores and ranks `workspace.candidates`.
    pub(crate) fn run(&self, request: &RequestView, workspace: &mut Workspace) -> Result<TieRule, Error> {
        self.filter(request, workspace)?;
        self.score(request, workspace);
        workspace.ranking.clear();
        let Workspace { candidates, totals, ranking, .. } = workspace;
        Ok(self.picker.pick(request, candidates, totals, self.ranked, ranking))
    }

    /// Every scorer's name, weight, raw value and score for the candidate at this position.
    pub(crate) fn scores_of<'a>(
        &'a self,
        request: &'a RequestView,
        workspace: &'a Workspace,
        position: usize,
    ) -> impl Iterator<Item = (&'static str, f32, f32, f32)> + 'a {
        let rows = workspace.scores.chunks_exact(workspace.candidates.len().max(1));
        self.scorers.iter().zip(&self.weights).zip(rows).filter_map(move |((scorer, &weight), row)| {
            let candidate = workspace.candidates.get(position)?;
            Some((scorer.name(), weight, scorer.raw(request, candidate), *row.get(position)?))
        })
    }

    fn filter(&self, request: &RequestView, workspace: &mut Workspace) -> Result<(), Error> {
        let Workspace { candidates, dropped, keep, .. } = workspace;
        dropped.clear();
        for filter in &self.filters {
            keep.clear();
            keep.resize(candidates.len(), true);
            filter.filter(request, candidates, keep);
            let kept = keep.iter().filter(|keep| **keep).count();
            if kept == candidates.len() {
                continue;
            }
            if kept == 0 {
                return Err(Error::NoEligibleEndpoint {
                    filter: filter.name(),
                    considered: candidates.len(),
                });
            }
            let mut verdicts = keep.iter();
            candidates.retain(|candidate| {
                let stays = verdicts.next().copied().unwrap_or(true);
                if !stays {
                    dropped.push((*candidate, filter.name()));
                }
                stays
            });
        }
        Ok(())
    }

    fn score(&self, request: &RequestView, workspace: &mut Workspace) {
        let Workspace { candidates, totals, scores, .. } = workspace;
        totals.clear();
        totals.resize(candidates.len(), 0.0);
        scores.clear();
        scores.resize(candidates.len() * self.scorers.len(), f32::NAN);
        let rows = scores.chunks_exact_mut(candidates.len().max(1));
        for ((scorer, &weight), row) in self.scorers.iter().zip(&self.weights).zip(rows) {
            scorer.score(request, candidates, row);
            enforce_contract(row);
            for (total, score) in totals.iter_mut().zip(row) {
                *total += *score * weight;
            }
        }
    }
}

/// Replaces missing scores by the mean of the others and clamps the rest to [0, 1].
fn enforce_contract(scores: &mut [f32]) {
    let mut known = 0u32;
    let mut sum = 0.0;
    for score in scores.iter_mut().filter(|score| score.is_finite()) {
        *score = score.clamp(0.0, 1.0);
        known += 1;
        sum += *score;
    }
    if known as usize == scores.len() {
        return;
    }
    let mean = if known == 0 { 1.0 } else { sum / known as f32 };
    for score in scores.iter_mut().filter(|score| !score.is_finite()) {
        *score = mean;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    /// A scorer that reads its scores from a table.
    #[derive(Debug)]
    struct Table(Vec<f32>);

    impl Scorer for Table {
        fn name(&self) -> &'static str {
            "table"
        }

        fn score(&self, _request: &RequestView, _candidates: &[Candidate], out: &mut [f32]) {
            out.copy_from_slice(&self.0);
        }

        fn raw(&self, _request: &RequestView, candidate: &Candidate) -> f32 {
            self.0[candidate.endpoint as usize]
        }
    }

    #[derive(Deserialize)]
    struct Case {
        name: String,
        weights: Vec<f32>,
        scores: Vec<Vec<f32>>,
        totals: Vec<f32>,
        chosen: usize,
    }

    fn run(scorers: Vec<Box<dyn Scorer>>, weights: Vec<f32>, endpoints: u32) -> (Workspace, TieRule) {
        let mut profile = Profile::from_config(&SchedulerConfig::default()).unwrap();
        profile.scorers = scorers;
        profile.weights = weights;
        let candidates = (0..endpoints).map(|endpoint| Candidate { endpoint, ..Candidate::default() });
        let mut workspace = Workspace { candidates: candidates.collect(), ..Workspace::default() };
        let rule = profile.run(&RequestView::default(), &mut workspace).unwrap();
        (workspace, rule)
    }

    #[test]
    fn weighted_sums_match_the_corpus() {
        let cases: Vec<Case> = serde_json::from_str(include_str!("../testdata/weighted_sum.json")).unwrap();
        for case in cases {
            let scorers =
                case.scores.iter().map(|row| Box::new(Table(row.clone())) as Box<dyn Scorer>).collect();
            let (workspace, _) = run(scorers, case.weights.clone(), case.totals.len() as u32);
            for (at, expected) in case.totals.iter().enumerate() {
                let column: Vec<f32> = case.scores.iter().map(|row| row[at]).collect();
                assert!(
                    (workspace.totals[at] - expected).abs() < 1e-5,
                    "{}: {:?}",
                    case.name,
                    workspace.totals
                );
                assert!((weighted_total(&column, &case.weights) - expected).abs() < 1e-5, "{}", case.name);
            }
            assert_eq!(workspace.ranking, [case.chosen], "{}", case.name);
        }
    }

    #[test]
    fn missing_scores_count_as_the_mean_and_wild_ones_are_clamped() {
        let mut scores = [f32::NAN, 0.2, 7.0, f32::NAN];
        enforce_contract(&mut scores);
        assert_eq!(scores, [0.6, 0.2, 1.0, 0.6]);
        let mut none = [f32::NAN, f32::NAN];
        enforce_contract(&mut none);
        assert_eq!(none, [1.0, 1.0]);
    }

    #[test]
    fn equals_go_round_by_the_tie_rule() {
        let (workspace, rule) = run(vec![Box::new(Table(vec![0.5, 0.5]))], vec![1.0], 2);
        assert_eq!((workspace.ranking.as_slice(), rule), ([0].as_slice(), TieRule::LeastRecentlyCold));
    }
}
