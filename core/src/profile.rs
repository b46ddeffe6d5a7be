//! Step 4: a profile is filters, then weighted scorers, then a picker.
//!
//! `S_e = Σ weight · score`, not divided by the weights. The contracts of [`Scorer`], [`Filter`] and [`Picker`] are
//! enforced here, so that no plugin has to repeat them.

use serde::Deserialize;

use crate::Error;
use crate::config::{SchedulerConfig, require, require_weight};
use crate::endpoint::Candidate;
use crate::filter::load_gate::{self, LoadGateFilter};
use crate::filter::{self, Filter};
use crate::picker::{self, Picker, TieRule};
use crate::scorer::{self, Scorer};

/// What plugins see of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct RequestView {
    /// Tokens of the prompt, I; an estimate where the prompt is text.
    pub prompt_tokens: u32,
    /// Tokens in the whole blocks that were looked up in the prefix index.
    pub hashed_tokens: u32,
    /// Stands for the session, or else for the head of the prompt, in rendezvous hashing.
    pub affinity_key: u64,
    /// Whether the request belongs to a session.
    pub has_session: bool,
    /// Which [endpoint](Candidate::endpoint) served the session last; `None` if that is not known or not asked for.
    pub session_endpoint: Option<u32>,
    /// Whether any endpoint holds a part of the prompt.
    pub is_warm: bool,
    /// Whether every candidate is in the subset, reachable and not for prefill only; false if that is not known. It spares
    /// the filters that drop the others a look at each.
    pub all_admissible: bool,
    /// Whether no candidate's predicted wait is further behind the shortest than the load gate allows; false if that is not
    /// known. It spares the gate a look at each.
    pub waits_are_close: bool,
    /// Larger is more urgent.
    pub priority: i32,
    /// How many requests were picked for before this one.
    pub number: u64,
    /// Made of the configured seed and `number`: what chance decides depends on it.
    pub random: u64,
}

impl RequestView {
    /// A random number below `bound`, evenly distributed; 0 if `bound` is 0. Other draws give independent numbers.
    ///
    /// # Example
    ///
    /// ```
    /// let request = p3sched::profile::RequestView::default();
    /// assert!(request.random_below(0, 6) < 6);
    /// assert_eq!(request.random_below(0, 6), request.random_below(0, 6));
    /// ```
    pub fn random_below(&self, draw: u64, bound: usize) -> usize {
        ((u128::from(split_mix(self.random, draw)) * bound as u128) >> 64) as usize
    }

    /// A random number in [0, 1), evenly distributed. Other draws give independent numbers.
    pub fn random_share(&self, draw: u64) -> f64 {
        (split_mix(self.random, draw) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The number at a position of the sequence that `SplitMix64` makes of a seed.
///
/// Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
pub(crate) fn split_mix(seed: u64, position: u64) -> u64 {
    let mut z = seed.wrapping_add(position.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
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

/// Plugins from outside of this crate.
#[derive(Debug, Default)]
pub(crate) struct CustomPlugins {
    /// Run after the configured ones.
    pub(crate) filters: Vec<Box<dyn Filter>>,
    /// Each with its weight.
    pub(crate) scorers: Vec<(Box<dyn Scorer>, f64)>,
    /// Replaces the configured one.
    pub(crate) picker: Option<Box<dyn Picker>>,
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
    /// Whether any plugin is not of this crate.
    pub(crate) has_custom_plugins: bool,
    pub(crate) load_gate: Option<LoadGateFilter>,
}

/// What one run of a profile reads and writes; kept between runs so that none allocates.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    /// Those that passed the filters, if any was dropped.
    passed: Vec<Candidate>,
    /// What the filters dropped, and which one.
    pub(crate) dropped: Vec<(Candidate, &'static str)>,
    /// Positions in what passed the filters: the chosen one, then the fallbacks.
    pub(crate) ranking: Vec<usize>,
    /// Sum of each candidate.
    pub(crate) totals: Vec<f32>,
    /// One row per scorer, one place per candidate.
    scores: Vec<f32>,
    keep: Vec<bool>,
}

impl Workspace {
    /// Those of all candidates that passed the filters.
    pub(crate) fn candidates<'a>(&'a self, all: &'a [Candidate]) -> &'a [Candidate] {
        if self.dropped.is_empty() { all } else { &self.passed }
    }

    /// The chosen one of all candidates, then the fallbacks.
    pub(crate) fn ranked<'a>(&'a self, all: &'a [Candidate]) -> impl Iterator<Item = &'a Candidate> {
        let candidates = self.candidates(all);
        self.ranking.iter().filter_map(|&at| candidates.get(at))
    }
}

impl Profile {
    /// The plugins that a configuration names, and those that were written elsewhere.
    pub(crate) fn new(config: &SchedulerConfig, custom: CustomPlugins) -> Result<Self, Error> {
        let has_custom_plugins =
            !(custom.filters.is_empty() && custom.scorers.is_empty() && custom.picker.is_none());
        let gate_seconds = config.load_gate_seconds.unwrap_or(f64::INFINITY);
        // A gate that is switched off is left out, so that it costs nothing.
        let is_on = |filter_type: &str| filter_type != load_gate::TYPE || gate_seconds.is_finite();
        let configured = config.filters.iter().filter(|filter| is_on(&filter.filter_type));
        let mut filters: Vec<_> =
            configured.map(|filter| filter::build(filter, gate_seconds)).collect::<Result<_, _>>()?;
        let has_gate = filters.iter().any(|filter| filter.name() == load_gate::TYPE);
        filters.extend(custom.filters);

        let mut scorers: Vec<_> = config.scorers.iter().map(scorer::build).collect::<Result<_, _>>()?;
        let mut weights: Vec<_> = config.scorers.iter().map(|scorer| scorer.weight as f32).collect();
        for (scorer, weight) in custom.scorers {
            require_weight(scorer.name(), weight)?;
            scorers.push(scorer);
            weights.push(weight as f32);
        }
        let picker = match custom.picker {
            Some(picker) => picker,
            None => picker::build(&config.picker)?,
        };
        let enough = !scorers.is_empty() || !picker.reads_totals();
        require("scorers", scorers.len(), enough, "at least one scorer")?;
        Ok(Self {
            filters,
            scorers,
            weights,
            picker,
            ranked: config.fallbacks.saturating_add(1),
            has_custom_plugins,
            load_gate: has_gate.then_some(LoadGateFilter { gate_seconds: gate_seconds as f32 }),
        })
    }

    /// Filters, scores and ranks candidates.
    pub(crate) fn run(
        &self,
        request: &RequestView,
        all: &[Candidate],
        workspace: &mut Workspace,
    ) -> Result<TieRule, Error> {
        self.filter(request, all, workspace)?;
        let Workspace { passed, dropped, ranking, totals, scores, .. } = workspace;
        let candidates = if dropped.is_empty() { all } else { passed.as_slice() };
        self.score(request, candidates, totals, scores);
        ranking.clear();
        Ok(self.picker.pick(request, candidates, totals, self.ranked, ranking))
    }

    /// Every scorer's name, weight, raw value and score for the candidate, which is the one at this position.
    pub(crate) fn scores_of<'a>(
        &'a self,
        request: &'a RequestView,
        candidate: &'a Candidate,
        workspace: &'a Workspace,
        position: usize,
    ) -> impl Iterator<Item = (&'static str, f32, f32, f32)> + 'a {
        let rows = workspace.scores.chunks_exact(workspace.totals.len().max(1));
        self.scorers.iter().zip(&self.weights).zip(rows).filter_map(move |((scorer, &weight), row)| {
            Some((scorer.name(), weight, scorer.raw(request, candidate), *row.get(position)?))
        })
    }

    /// Whether the load gate came to see what this filter dropped.
    pub(crate) fn gate_saw(&self, dropped_by: &str) -> bool {
        let position = |name: &str| self.filters.iter().position(|filter| filter.name() == name);
        position(load_gate::TYPE) <= position(dropped_by)
    }

    /// Copies candidates only once one is dropped.
    fn filter(
        &self,
        request: &RequestView,
        all: &[Candidate],
        workspace: &mut Workspace,
    ) -> Result<(), Error> {
        let Workspace { passed, dropped, keep, .. } = workspace;
        dropped.clear();
        keep.clear();
        keep.resize(all.len(), true);
        for filter in &self.filters {
            let candidates = if dropped.is_empty() { all } else { passed.as_slice() };
            filter.filter(request, candidates, keep);
            // Without a branch per candidate.
            if keep.iter().fold(true, |all, &keep| all & keep) {
                continue;
            }
            if !keep.contains(&true) {
                return Err(Error::NoEligibleEndpoint {
                    filter: filter.name(),
                    considered: candidates.len(),
                });
            }
            if dropped.is_empty() {
                passed.clear();
                passed.extend_from_slice(all);
            }
            let mut verdicts = keep.iter();
            passed.retain(|candidate| {
                let stays = verdicts.next().copied().unwrap_or(true);
                if !stays {
                    dropped.push((*candidate, filter.name()));
                }
                stays
            });
            keep.clear();
            keep.resize(passed.len(), true);
        }
        Ok(())
    }

    fn score(
        &self,
        request: &RequestView,
        candidates: &[Candidate],
        totals: &mut Vec<f32>,
        scores: &mut Vec<f32>,
    ) {
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
    // The common case, without a branch per score.
    if scores.iter().fold(true, |all, score| all & (*score >= 0.0) & (*score <= 1.0)) {
        return;
    }
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
        let mut profile = Profile::new(&SchedulerConfig::default(), CustomPlugins::default()).unwrap();
        profile.scorers = scorers;
        profile.weights = weights;
        let candidates = (0..endpoints).map(|endpoint| Candidate { endpoint, ..Candidate::default() });
        let mut workspace = Workspace::default();
        let rule =
            profile.run(&RequestView::default(), &candidates.collect::<Vec<_>>(), &mut workspace).unwrap();
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

    #[derive(Deserialize)]
    struct Presets {
        request: RequestView,
        candidates: Vec<Candidate>,
        cases: Vec<PresetCase>,
    }

    #[derive(Deserialize)]
    struct PresetCase {
        preset: String,
        eligible: Vec<u32>,
        totals: Vec<f32>,
        chosen: u32,
    }

    #[test]
    fn presets_match_the_corpus() {
        let corpus: Presets = serde_json::from_str(include_str!("../testdata/presets.json")).unwrap();
        let tested: Vec<_> = corpus.cases.iter().map(|case| case.preset.as_str()).collect();
        assert_eq!(tested, crate::preset::names().collect::<Vec<_>>());
        for case in corpus.cases {
            let config = SchedulerConfig::preset(&case.preset).unwrap();
            let profile = Profile::new(&config, CustomPlugins::default()).unwrap();
            let mut workspace = Workspace::default();
            profile.run(&corpus.request, &corpus.candidates, &mut workspace).unwrap();
            let eligible = workspace.candidates(&corpus.candidates).iter();
            let eligible: Vec<_> = eligible.map(|candidate| candidate.endpoint).collect();
            assert_eq!(eligible, case.eligible, "{}", case.preset);
            let near = |(total, expected): (&f32, &f32)| (total - expected).abs() < 2e-6;
            assert!(
                workspace.totals.iter().zip(&case.totals).all(near),
                "{}: {:?}",
                case.preset,
                workspace.totals
            );
            assert_eq!(eligible[workspace.ranking[0]], case.chosen, "{}", case.preset);
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
