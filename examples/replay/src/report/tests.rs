//! What every page has to be, whatever is on it.

use super::format::{number, percent, seconds};
use super::*;
use crate::comparison::{Case, Input, compare};
use crate::cost::per_million_requests;
use crate::engine::EngineParameters;
use crate::policy::Policy;
use crate::simulation::Options;
use crate::workload::Workload;

const FOREIGN: &str = "<script>alert('1')</script>";

/// Two policies, one with a name that is markup.
fn shown() -> Vec<Shown> {
    let input = Input::MadeUp(Workload::parse("shared-prefix:groups=8:conversations=300:rate=30").unwrap());
    let engine = EngineParameters::preset("t4").unwrap();
    let default = Policy::parse("default").unwrap();
    let foreign = Policy::of_config(FOREIGN, Policy::parse("round-robin").unwrap().config);
    let case = |policy: Policy| Case { name: policy.name.clone(), options: Options::new(policy, &engine, 3) };
    let cases = [case(default), case(foreign)];
    let compared = compare(&input, &cases, 2, &|_| {}).unwrap();
    let shown = cases.iter().zip(compared).map(|(case, compared)| Shown::new(&input, case, compared));
    shown.collect::<Result<_, _>>().unwrap()
}

fn page(shown: &[Shown]) -> String {
    let about =
        About { traffic: FOREIGN.to_owned(), command: "replay run & more".to_owned(), price: Some(2.5) };
    of_policies(shown, &about).unwrap().html().unwrap()
}

#[test]
fn a_page_needs_nothing_else_and_runs_nothing() {
    let page = page(&shown()).replace("http://www.w3.org/2000/svg", "");
    for reference in ["http:", "https:", "src=", "<link", "url(", "@import", "<script", "<iframe"] {
        assert!(!page.contains(reference), "{reference}");
    }
    assert!(page.contains("&lt;script&gt;alert(") && page.contains("replay run &amp; more"));
}

#[test]
fn figures_on_the_page_are_those_of_the_results() {
    let shown = shown();
    let page = page(&shown);
    for one in &shown {
        let mean = |of: fn(&crate::result::Summary) -> f64| one.compared.mean(of).value;
        let cost =
            one.compared.mean(|summary| per_million_requests(3, 2.5, summary.requests_per_second)).value;
        for expected in [
            percent(mean(|summary| summary.cached_ratio)),
            seconds(mean(|summary| summary.time_to_first_token.mean)),
            seconds(mean(|summary| summary.time_to_first_token.p95)),
            number(mean(|summary| summary.output_tokens_per_second)),
            number(cost),
        ] {
            assert!(page.contains(&format!(">{expected}<")), "{expected} of {}", one.compared.policy);
        }
    }
}

#[test]
fn the_worst_decision_is_what_the_replicas_would_have_made_of_it() {
    let shown = shown();
    let replayed = &shown[1].replayed;
    let loss = |explained: &crate::result::ExplainedDecision| {
        let seconds = |name: &str| {
            explained.alternatives.iter().find(|one| one.endpoint == name).map(|one| one.seconds).unwrap()
        };
        let best = explained.alternatives.iter().map(|one| one.seconds).fold(f64::INFINITY, f64::min);
        seconds(&explained.decision.endpoint) - best
    };
    let worst = replayed.decisions.iter().map(loss).fold(0.0, f64::max);
    assert!(worst > 0.05, "round robin sends prompts to replicas that do not have them: {worst}");
    let summaries: Vec<_> = decisions::blocks(replayed)
        .into_iter()
        .filter_map(|block| if let Block::Details { summary, .. } = block { Some(summary) } else { None })
        .collect();
    assert!(summaries[0].starts_with(&format!("{} lost: request ", seconds(worst))), "{summaries:?}");
}
