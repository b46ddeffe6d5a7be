//! Presets, sessions, adapters and plugins, driven through the scheduler.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics has failed")]

use std::collections::{BTreeMap, BTreeSet};

use p3sched::endpoint::Candidate;
use p3sched::filter::Filter;
use p3sched::picker::{Picker, TieRule};
use p3sched::profile::RequestView;
use p3sched::scorer::Scorer;
use p3sched::{Decision, Endpoint, EndpointMetrics, Outcome, Request, Scheduler, SchedulerConfig};
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;

fn scheduler(config: &str, endpoints: usize) -> Scheduler {
    let scheduler = Scheduler::new(serde_norway::from_str(config).unwrap()).unwrap();
    (0..endpoints).for_each(|n| scheduler.add_endpoint(Endpoint::new(format!("{n}:1"))).unwrap());
    scheduler
}

/// A prompt of `tokens` tokens (four bytes each) that shares nothing with one of another key.
fn text(key: u64, tokens: usize) -> Request {
    let prompt: String = format!("{key:_>16}").chars().cycle().take(tokens * 4).collect();
    Request::from_text("m", prompt)
}

fn in_session(mut request: Request, session: &str) -> Request {
    request.session = Some(session.to_owned());
    request
}

fn load(waiting: f64, utilization: f64) -> EndpointMetrics {
    let mut metrics = EndpointMetrics::default();
    metrics.waiting_requests = Some(waiting);
    metrics.kv_cache_utilization = Some(utilization);
    metrics
}

/// Picks, and reports the end at once.
fn serve(scheduler: &Scheduler, request: &Request, now: u64) -> Decision {
    let decision = scheduler.pick(request, now).unwrap();
    scheduler.complete(decision.id, Outcome::success(), now).unwrap();
    decision
}

#[test]
fn every_preset_serves() {
    for preset in p3sched::preset::names() {
        let scheduler = scheduler(&format!("{{preset: {preset}, fallbacks: 2}}"), 5);
        for n in 0..100 {
            let decision = scheduler.pick(&text(n % 7, 100), n).unwrap();
            let fallbacks: BTreeSet<_> = decision.fallbacks.iter().collect();
            let expected = if preset == "power-of-two" { 1 } else { 2 };
            let alone = preset == "affinity-token" && decision.matched_tokens > 0;
            assert!(fallbacks.len() == expected || alone, "{preset}");
            assert!(!fallbacks.contains(&decision.endpoint), "{preset}");
        }
    }
}

proptest! {
    /// The arithmetic of the reference picker in 64 bits, over what was scraped long ago and despite own picks.
    #[test]
    fn literal_3_1_1_is_the_reference(
        scrapes in prop::collection::vec((0u32..50, 0.0f64..1.0), 2..12),
        prompts in prop::collection::vec((0u64..4, 8usize..200), 1..30),
    ) {
        let scheduler = scheduler("preset: literal-3-1-1", scrapes.len());
        for (n, &(waiting, used)) in scrapes.iter().enumerate() {
            scheduler.observe(&format!("{n}:1"), load(f64::from(waiting), used), 0).unwrap();
        }
        let most = f64::from(scrapes.iter().map(|scrape| scrape.0).max().unwrap());
        let least = f64::from(scrapes.iter().map(|scrape| scrape.0).min().unwrap());
        let mut held: BTreeMap<(usize, u64), usize> = BTreeMap::new();
        for (key, tokens) in prompts {
            let mut request = text(key, tokens);
            request.explain = true;
            let decision = scheduler.pick(&request, 1_000 * SECOND).unwrap();
            let blocks = tokens / 16;
            let total = |n: usize| {
                let (waiting, used) = scrapes[n];
                let matched = held.get(&(n, key)).map_or(0, |&held| held.min(blocks));
                let prefix = if blocks == 0 { 0.0 } else { matched as f64 / blocks as f64 };
                let range = most - least;
                let queue = if range == 0.0 { 1.0 } else { (most - f64::from(waiting)) / range };
                3.0 * prefix + queue + (1.0 - used)
            };
            let best = (0..scrapes.len()).map(total).fold(0.0, f64::max);
            for row in &decision.explanation().unwrap().endpoints {
                let n: usize = row.endpoint.split(':').next().unwrap().parse().unwrap();
                prop_assert!((f64::from(row.total.unwrap()) - total(n)).abs() < 2e-6);
            }
            let chosen: usize = decision.endpoint.split(':').next().unwrap().parse().unwrap();
            prop_assert!(total(chosen) >= best - 2e-6);
            let most_held = held.entry((chosen, key)).or_default();
            *most_held = blocks.max(*most_held);
        }
    }
}

#[test]
fn literal_3_1_1_breaks_ties_evenly_and_the_same_seed_repeats_them() {
    let picks = |seed: u64| {
        let scheduler = scheduler(&format!("{{preset: literal-3-1-1, seed: {seed}}}"), 4);
        (0..4_000).map(|n| scheduler.pick(&text(n, 20), n).unwrap().endpoint).collect::<Vec<_>>()
    };
    let (first, second, again) = (picks(1), picks(2), picks(1));
    assert_eq!(first, again);
    assert_ne!(first, second);
    for n in 0..4 {
        let count = first.iter().filter(|name| ***name == *format!("{n}:1")).count();
        assert!((900..1_100).contains(&count), "{n}: {count}");
    }
}

#[test]
fn explain_foresees_what_chance_will_do() {
    let scheduler = scheduler("preset: random", 8);
    for n in 0..50 {
        let foreseen = scheduler.explain(&text(n, 20), n).unwrap();
        assert_eq!(foreseen.endpoint, scheduler.pick(&text(n, 20), n).unwrap().endpoint);
    }
}

#[test]
fn round_robin_takes_turns() {
    let scheduler = scheduler("preset: round-robin", 3);
    let names: Vec<_> = (0..6).map(|n| serve(&scheduler, &text(1, 100), n).endpoint).collect();
    assert_eq!(
        names.iter().map(|name| &**name).collect::<Vec<_>>(),
        ["0:1", "1:1", "2:1", "0:1", "1:1", "2:1"]
    );
}

#[test]
fn min_ttft_leaves_the_home_when_waiting_costs_more_than_computing() {
    let scheduler = scheduler("{preset: min-ttft, prefill_tokens_per_second: 1000}", 2);
    let home = serve(&scheduler, &text(1, 4_000), 0).endpoint;
    assert_eq!(serve(&scheduler, &text(1, 4_000), 1).endpoint, home);
    scheduler.observe(&home, load(1.0, 0.0), 2).unwrap();
    // One request waits of about 3 800 tokens on average: less than the 4 000 of the prompt.
    assert_eq!(scheduler.explain(&text(1, 4_000), 2).unwrap().endpoint, home);
    scheduler.observe(&home, load(2.0, 0.0), 2).unwrap();
    assert_ne!(scheduler.explain(&text(1, 4_000), 2).unwrap().endpoint, home);
}

#[test]
fn power_of_two_keeps_a_prompt_at_home() {
    let scheduler = scheduler("{preset: power-of-two, prefill_tokens_per_second: 1000}", 100);
    let homes: BTreeSet<_> = (0..50).map(|n| serve(&scheduler, &text(7, 500), n).endpoint).collect();
    assert!(homes.len() <= 2, "{homes:?}");
    let spread: BTreeSet<_> = (0..200).map(|n| serve(&scheduler, &text(n, 500), n).endpoint).collect();
    assert!(spread.len() > 50, "{}", spread.len());
}

const SESSIONS: &str =
    "{scorers: [{type: session-affinity-scorer, parameters: {ttl_seconds: 10}}], fallbacks: 1}";

#[test]
fn a_session_stays_until_it_is_forgotten() {
    let scheduler = scheduler(SESSIONS, 5);
    let raw = |now| {
        let decision = scheduler.explain(&in_session(text(9, 20), "alice"), now).unwrap();
        decision.explanation().unwrap().endpoints[0].scores[0].raw
    };
    assert_eq!(raw(0), Some(0.0));
    let home = serve(&scheduler, &in_session(text(1, 20), "alice"), 0).endpoint;
    for n in 2..20 {
        assert_eq!(serve(&scheduler, &in_session(text(n, 20), "alice"), n * SECOND).endpoint, home);
    }
    assert_eq!(raw(29 * SECOND), Some(1.0));
    assert_eq!(raw(30 * SECOND), Some(0.0));
}

#[test]
fn a_session_does_not_follow_a_name_to_another_process() {
    let scheduler = scheduler(SESSIONS, 1);
    serve(&scheduler, &in_session(text(1, 20), "alice"), 0);
    scheduler.remove_endpoint("0:1").unwrap();
    scheduler.add_endpoint(Endpoint::new("new:1")).unwrap();
    let decision = scheduler.explain(&in_session(text(1, 20), "alice"), 0).unwrap();
    assert_eq!(decision.explanation().unwrap().endpoints[0].scores[0].raw, Some(0.0));
}

#[test]
fn who_served_elsewhere_holds_the_prompt_and_the_session() {
    let scheduler = scheduler(SESSIONS, 2);
    let request = in_session(text(1, 320), "alice");
    let decision = scheduler.pick(&request, 0).unwrap();
    let served_by = decision.fallbacks[0].to_string();
    let outcome =
        Outcome { served_by: Some(served_by.clone()), cached_tokens: Some(0), ..Outcome::success() };
    scheduler.complete(decision.id, outcome, 1).unwrap();
    let next = scheduler.explain(&request, 2).unwrap();
    assert_eq!((&*next.endpoint, next.matched_tokens), (&*served_by, 320));
    let stats = scheduler.stats(2);
    assert_eq!((stats.counters.served_elsewhere, stats.requests_in_flight), (1, 0));
    assert!(stats.endpoints.iter().all(|endpoint| endpoint.tokens_in_flight == 0));
}

#[test]
fn a_failure_elsewhere_teaches_nothing() {
    let scheduler = scheduler("{fallbacks: 1}", 2);
    let decision = scheduler.pick(&text(1, 320), 0).unwrap();
    let served_by = Some(decision.fallbacks[0].to_string());
    scheduler.complete(decision.id, Outcome { served_by, ..Outcome::default() }, 1).unwrap();
    assert_eq!(scheduler.explain(&text(1, 320), 2).unwrap().endpoint, decision.endpoint);
}

#[test]
fn an_engine_that_never_finds_what_is_predicted_loses_its_entries_once() {
    let scheduler = scheduler("{}", 1);
    let serve = |now: u64, cached| {
        let decision = scheduler.pick(&text(1, 1_600), now).unwrap();
        let outcome = Outcome { cached_tokens: Some(cached), ..Outcome::success() };
        scheduler.complete(decision.id, outcome, now + 1).unwrap();
        scheduler.stats(now + 1)
    };
    serve(0, 0);
    for n in 1..8 {
        let stats = serve(n * SECOND, 0);
        assert_eq!(stats.counters.prediction_clears, 0);
        assert_eq!(u64::from(stats.endpoints[0].missed_predictions), n);
        assert_eq!(stats.endpoints[0].index_blocks, 100);
    }
    let stats = serve(8 * SECOND, 0);
    assert_eq!((stats.counters.prediction_clears, stats.endpoints[0].index_blocks), (1, 0));
    assert!(stats.endpoints[0].predictions_distrusted);
    (9..39).for_each(|n| drop(serve(n * SECOND, 0)));
    let stats = serve(39 * SECOND, 0);
    assert_eq!((stats.counters.prediction_clears, stats.endpoints[0].index_blocks), (1, 100), "once");
    let stats = serve(50 * SECOND, 1_584);
    assert!(!stats.endpoints[0].predictions_distrusted);
}

#[test]
fn an_adapter_goes_where_it_is_loaded() {
    let scheduler = scheduler("{preset: kserve-current}", 3);
    let mut metrics = load(0.0, 0.0);
    metrics.max_adapters = Some(1);
    metrics.running_adapters = vec!["other".to_owned()];
    scheduler.observe("0:1", metrics.clone(), 0).unwrap();
    scheduler.observe("2:1", metrics.clone(), 0).unwrap();
    metrics.running_adapters = vec!["law".to_owned()];
    scheduler.observe("1:1", metrics, 0).unwrap();
    let mut named = text(1, 20);
    named.adapter = Some("law".to_owned());
    assert_eq!(&*scheduler.explain(&named, 0).unwrap().endpoint, "1:1");
    let as_model = Request::from_text("law", "What is theft?");
    assert_eq!(&*scheduler.explain(&as_model, 0).unwrap().endpoint, "1:1");
    let plain = scheduler.explain(&text(1, 20), 0).unwrap();
    let lora = plain.explanation().unwrap().endpoints.iter().map(|endpoint| endpoint.scores[4].score);
    assert_eq!(lora.collect::<Vec<_>>(), [1.0; 3]);
}

#[test]
fn a_prefill_replica_is_never_picked() {
    let scheduler = scheduler("{}", 0);
    let mut prefill = Endpoint::new("prefill:1");
    prefill.labels.insert("llm-d.ai/role".to_owned(), "prefill".to_owned());
    scheduler.add_endpoint(prefill).unwrap();
    let error = scheduler.pick(&text(1, 20), 0).unwrap_err();
    assert_eq!(error.to_string(), "no eligible endpoint: filter `role-filter` removed the last of 1");
    scheduler.add_endpoint(Endpoint::new("decode:1")).unwrap();
    assert_eq!(&*scheduler.pick(&text(1, 20), 0).unwrap().endpoint, "decode:1");
}

#[derive(Debug)]
struct Last;

impl Filter for Last {
    fn name(&self) -> &'static str {
        "not-the-first"
    }

    fn filter(&self, _request: &RequestView, _candidates: &[Candidate], keep: &mut [bool]) {
        keep[0] = false;
    }
}

impl Scorer for Last {
    fn name(&self) -> &'static str {
        "last-is-best"
    }

    fn score(&self, request: &RequestView, candidates: &[Candidate], out: &mut [f32]) {
        let scores = candidates.iter().map(|candidate| self.raw(request, candidate));
        out.iter_mut().zip(scores).for_each(|(place, score)| *place = score);
    }

    fn raw(&self, _request: &RequestView, candidate: &Candidate) -> f32 {
        candidate.endpoint as f32 / 10.0
    }
}

impl Picker for Last {
    fn name(&self) -> &'static str {
        "second-best"
    }

    fn pick(
        &self,
        _request: &RequestView,
        _candidates: &[Candidate],
        totals: &[f32],
        _count: usize,
        ranking: &mut Vec<usize>,
    ) -> TieRule {
        assert!(totals.is_sorted());
        ranking.push(totals.len() - 2);
        TieRule::Unique
    }
}

#[test]
fn plugins_from_outside_take_part() {
    let mut config = SchedulerConfig::default();
    config.scorers.clear();
    let builder = || Scheduler::builder(config.clone()).scorer(Box::new(Last), 1.0);
    for (scheduler, expected) in [
        (builder().build().unwrap(), "2:1"),
        (builder().picker(Box::new(Last)).build().unwrap(), "1:1"),
        (builder().filter(Box::new(Last)).picker(Box::new(Last)).build().unwrap(), "1:1"),
    ] {
        (0..3).for_each(|n| scheduler.add_endpoint(Endpoint::new(format!("{n}:1"))).unwrap());
        assert_eq!(&*scheduler.pick(&text(1, 20), 0).unwrap().endpoint, expected);
    }
    let error = Scheduler::new(config.clone()).unwrap_err().to_string();
    assert!(error.contains("scorers must be at least one scorer: `0`"), "{error}");
    let error = builder().scorer(Box::new(Last), f64::NAN).build().unwrap_err().to_string();
    assert!(error.contains("weight of last-is-best must be a number, 0 or more: `NaN`"), "{error}");
}
