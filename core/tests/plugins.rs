//! Every scorer, filter and picker against the tables in `testdata`.
//!
//! A candidate or request names only the fields that matter; the others are at the defaults of `Candidate` and
//! `RequestView`. `null` for a score means that there is none.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics has failed")]

use std::collections::BTreeMap;

use p3sched::config::{FilterConfig, PickerConfig, ScorerConfig};
use p3sched::endpoint::Candidate;
use p3sched::profile::RequestView;
use p3sched::{filter, picker, scorer};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScorerCase {
    name: String,
    r#type: String,
    parameters: BTreeMap<String, f64>,
    request: RequestView,
    candidates: Vec<Candidate>,
    scores: Vec<Option<f32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FilterCase {
    name: String,
    r#type: String,
    parameters: BTreeMap<String, f64>,
    #[serde(default)]
    load_gate_seconds: f64,
    request: RequestView,
    candidates: Vec<Candidate>,
    keep: Vec<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PickerCase {
    name: String,
    r#type: String,
    parameters: BTreeMap<String, f64>,
    request: RequestView,
    candidates: Vec<Candidate>,
    totals: Vec<f32>,
    count: usize,
    ranking: Vec<usize>,
    tie_rule: serde_json::Value,
}

fn missing<'a>(types: &[&'static str], tested: impl Iterator<Item = &'a String>) -> Vec<&'static str> {
    let tested: Vec<_> = tested.collect();
    types.iter().filter(|name| tested.iter().all(|tested| *tested != *name)).copied().collect()
}

#[test]
fn scorers_match_the_corpus() {
    let cases: Vec<ScorerCase> = serde_json::from_str(include_str!("../testdata/scorers.json")).unwrap();
    assert_eq!(missing(&scorer::TYPES, cases.iter().map(|case| &case.r#type)), [""; 0]);
    for case in cases {
        let mut config = ScorerConfig::new(&case.r#type, 1.0);
        config.parameters = case.parameters;
        let scorer = scorer::build(&config).unwrap();
        assert_eq!(scorer.name(), case.r#type);
        let mut scores = vec![f32::INFINITY; case.candidates.len()];
        scorer.score(&case.request, &case.candidates, &mut scores);
        assert_eq!(scores.len(), case.scores.len());
        for (score, expected) in scores.iter().zip(&case.scores) {
            let equal = expected.map_or(score.is_nan(), |expected| (score - expected).abs() < 1e-6);
            assert!(equal, "{}, {}: {scores:?}", case.r#type, case.name);
        }
    }
}

#[test]
fn filters_match_the_corpus() {
    let cases: Vec<FilterCase> = serde_json::from_str(include_str!("../testdata/filters.json")).unwrap();
    assert_eq!(missing(&filter::TYPES, cases.iter().map(|case| &case.r#type)), [""; 0]);
    for case in cases {
        let mut config = FilterConfig::new(&case.r#type);
        config.parameters = case.parameters;
        let filter = filter::build(&config, case.load_gate_seconds).unwrap();
        assert_eq!(filter.name(), case.r#type);
        let mut keep = vec![true; case.candidates.len()];
        filter.filter(&case.request, &case.candidates, &mut keep);
        assert_eq!(keep, case.keep, "{}, {}", case.r#type, case.name);
    }
}

#[test]
fn pickers_match_the_corpus() {
    let cases: Vec<PickerCase> = serde_json::from_str(include_str!("../testdata/pickers.json")).unwrap();
    assert_eq!(missing(&picker::TYPES, cases.iter().map(|case| &case.r#type)), [""; 0]);
    for case in cases {
        let mut config = PickerConfig::new(&case.r#type);
        config.parameters = case.parameters;
        let picker = picker::build(&config).unwrap();
        assert_eq!(picker.name(), case.r#type);
        let mut ranking = Vec::new();
        let rule = picker.pick(&case.request, &case.candidates, &case.totals, case.count, &mut ranking);
        assert_eq!(ranking, case.ranking, "{}, {}", case.r#type, case.name);
        assert_eq!(serde_json::to_value(rule).unwrap(), case.tie_rule, "{}, {}", case.r#type, case.name);
    }
}

/// How often each of `candidates` equal candidates with these totals is chosen in 30 000 requests.
fn shares(picker_type: &str, parameters: &[(&str, f64)], totals: &[f32]) -> Vec<f64> {
    const REQUESTS: u32 = 30_000;
    let mut config = PickerConfig::new(picker_type);
    config.parameters = parameters.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
    let picker = picker::build(&config).unwrap();
    let mut counts = vec![0u32; totals.len()];
    let candidates = vec![Candidate::default(); totals.len()];
    for random in 0..REQUESTS {
        let mut request = RequestView::default();
        request.random = u64::from(random);
        let mut ranking = Vec::new();
        picker.pick(&request, &candidates, totals, 1, &mut ranking);
        counts[ranking[0]] += 1;
    }
    counts.iter().map(|&count| f64::from(count) / f64::from(REQUESTS)).collect()
}

#[test]
fn chance_is_fair() {
    for (picker_type, parameters, totals, expected) in [
        ("random-picker", &[][..], [4.0, 0.0, 1.0, 1.0], [0.25, 0.25, 0.25, 0.25]),
        ("weighted-random-picker", &[], [4.0, 0.0, 1.0, 3.0], [0.5, 0.0, 0.125, 0.375]),
        (
            "max-score-picker",
            &[("random_ties", 1.0)],
            [4.0, 4.0, 1.0, 4.0],
            [1.0 / 3.0, 1.0 / 3.0, 0.0, 1.0 / 3.0],
        ),
    ] {
        let shares = shares(picker_type, parameters, &totals);
        let fair =
            shares.iter().zip(expected).all(|(share, expected): (&f64, f64)| (share - expected).abs() < 0.01);
        assert!(fair, "{picker_type}: {shares:?}");
    }
}
