//! The scheduler as its users drive it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::sync::{Arc, Barrier};

use p3sched::{Decision, Endpoint, EndpointMetrics, Error, Outcome, Request, Scheduler, ScrapeFailure};

const SECOND: u64 = 1_000_000_000;

fn scheduler(config: &str, endpoints: &[&str]) -> Scheduler {
    let scheduler = Scheduler::new(serde_norway::from_str(config).unwrap()).unwrap();
    scheduler.set_endpoints(endpoints.iter().map(|name| Endpoint::new(*name)).collect()).unwrap();
    scheduler
}

/// A prompt of `tokens` tokens (four bytes each) that shares nothing with one of another key.
fn text(key: &str, tokens: usize) -> String {
    format!("{key:_<16}").chars().cycle().take(tokens * 4).collect()
}

fn pick(scheduler: &Scheduler, prompt: impl Into<String>, now: u64) -> Decision {
    scheduler.pick(&Request::from_text("m", prompt.into()), now).unwrap()
}

fn load(waiting: f64, utilization: f64) -> EndpointMetrics {
    let mut metrics = EndpointMetrics::default();
    metrics.waiting_requests = Some(waiting);
    metrics.kv_cache_utilization = Some(utilization);
    metrics
}

#[test]
fn a_shared_prefix_finds_its_endpoint_again() {
    let scheduler = scheduler("{}", &["a:1", "b:1", "c:1"]);
    let first = pick(&scheduler, text("system", 400) + "one", 0);
    assert_eq!(first.matched_tokens, 0);
    for turn in 1..10 {
        let next = pick(&scheduler, text("system", 400) + &text(&format!("turn {turn}"), 20), turn);
        assert_eq!(next.endpoint, first.endpoint);
        assert_eq!(next.matched_tokens, 400);
        assert_eq!(next.prompt_tokens, 420);
    }
}

#[test]
fn different_prompts_spread_evenly() {
    let scheduler = scheduler("{}", &["a:1", "b:1", "c:1"]);
    let mut shares: HashMap<_, u32> = HashMap::new();
    for number in 0..30 {
        *shares.entry(pick(&scheduler, text(&format!("prompt {number}"), 100), 0).endpoint).or_default() += 1;
    }
    assert_eq!(shares.values().copied().collect::<Vec<_>>(), [10, 10, 10]);
}

#[test]
fn idle_endpoints_take_turns_with_cold_requests() {
    let scheduler = scheduler("{}", &["a:1", "b:1", "c:1"]);
    let mut served = Vec::new();
    for number in 0..6 {
        let decision = pick(&scheduler, text(&format!("prompt {number}"), 100), 0);
        scheduler.complete(decision.id, Outcome::success(), 0).unwrap();
        served.push(decision.endpoint);
    }
    assert_eq!(served[..3], served[3..]);
    assert_eq!(served[..3].iter().collect::<std::collections::HashSet<_>>().len(), 3);
}

#[test]
fn requests_that_arrive_together_see_each_other() {
    let scheduler = scheduler("{}", &["a:1", "b:1", "c:1"]);
    let (threads, each) = (10, 5);
    let barrier = Barrier::new(threads);
    let decisions: Vec<Decision> = std::thread::scope(|scope| {
        let run = || {
            barrier.wait();
            (0..each).map(|_| pick(&scheduler, text("new", 2_000), 0)).collect::<Vec<_>>()
        };
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        handles.into_iter().flat_map(|handle| handle.join().unwrap()).collect()
    });
    assert_eq!(decisions.iter().filter(|decision| decision.matched_tokens == 0).count(), 1, "one cold pick");
    assert!(decisions.iter().all(|decision| decision.endpoint == decisions[0].endpoint));
    let ids: std::collections::HashSet<u64> = decisions.iter().map(|decision| decision.id).collect();
    assert_eq!(ids.len(), threads * each);
}

#[test]
fn the_ledger_returns_to_zero() {
    let scheduler = scheduler("{}", &["a:1", "b:1"]);
    let decisions: Vec<_> = (0..20).map(|n| pick(&scheduler, text(&format!("p{n}"), 64), n)).collect();
    let in_flight = |name: &str| {
        let stats = scheduler.stats(SECOND);
        let stats = stats.endpoints.iter().find(|endpoint| *endpoint.endpoint == *name).unwrap().clone();
        (stats.requests_in_flight, stats.tokens_in_flight, stats.queued_tokens)
    };
    assert_eq!(in_flight("a:1"), (10, 640, 640));
    for decision in &decisions {
        scheduler.first_token(decision.id, SECOND).unwrap();
        scheduler.first_token(decision.id, SECOND).unwrap();
    }
    assert_eq!(in_flight("a:1"), (10, 640, 0));
    for decision in &decisions {
        scheduler.complete(decision.id, Outcome::success(), SECOND).unwrap();
        scheduler.complete(decision.id, Outcome::success(), SECOND).unwrap();
        scheduler.first_token(decision.id, SECOND).unwrap();
    }
    assert_eq!((in_flight("a:1"), in_flight("b:1")), ((0, 0, 0), (0, 0, 0)));
    assert_eq!(scheduler.stats(SECOND).counters.completed_requests, 20);
}

#[test]
fn bookings_that_nobody_ends_expire() {
    let config = "bookings: {first_token_timeout_seconds: 10, request_timeout_seconds: 60}";
    let scheduler = scheduler(config, &["a:1"]);
    pick(&scheduler, text("lost", 100), 0);
    let state = |now| {
        let stats = scheduler.stats(now);
        (stats.endpoints[0].queued_tokens, stats.endpoints[0].requests_in_flight, stats.requests_in_flight)
    };
    assert_eq!(state(9 * SECOND), (100, 1, 1));
    assert_eq!(state(10 * SECOND), (0, 1, 1));
    assert_eq!(state(60 * SECOND), (0, 0, 0));
}

#[test]
fn the_prefill_rate_is_learned_from_first_tokens() {
    let scheduler = scheduler("{}", &["a:1"]);
    let decision = pick(&scheduler, text("long", 5_000), 0);
    assert_eq!(scheduler.stats(0).endpoints[0].prefill_tokens_per_second, None);
    scheduler.first_token(decision.id, SECOND / 2).unwrap();
    assert_eq!(scheduler.stats(0).endpoints[0].prefill_tokens_per_second, Some(10_000.0));
}

#[test]
fn a_hot_prefix_spreads_when_its_home_is_too_busy() {
    let hot = |number: u32| text("hot", 1_000) + &text(&format!("tail {number}"), 500);
    let homes = |config: &str| {
        let scheduler = scheduler(config, &["a:1", "b:1", "c:1"]);
        let chosen = (0..60).map(|number| pick(&scheduler, hot(number), 0).endpoint);
        chosen.collect::<std::collections::HashSet<_>>().len()
    };
    assert_eq!(homes("{prefill_tokens_per_second: 1000, load_gate_seconds: 5}"), 3);
    assert_eq!(homes("{prefill_tokens_per_second: 1000, load_gate_seconds: null}"), 1);
    assert_eq!(
        homes("{prefill_tokens_per_second: 1000000, load_gate_seconds: 5}"),
        1,
        "a fast engine keeps up"
    );
}

#[test]
fn queue_and_memory_outweigh_a_small_match() {
    let scheduler = scheduler("{}", &["a:1", "b:1"]);
    let home = pick(&scheduler, text("little", 32) + &text("first", 400), 0);
    scheduler.complete(home.id, Outcome::success(), 0).unwrap();
    let other = if &*home.endpoint == "a:1" { "b:1" } else { "a:1" };
    scheduler.observe(&home.endpoint, load(9.0, 0.9), 0).unwrap();
    scheduler.observe(other, load(0.0, 0.1), 0).unwrap();
    assert_eq!(&*pick(&scheduler, text("little", 32) + &text("second", 400), 0).endpoint, other);
}

#[test]
fn an_unreachable_endpoint_is_out_until_it_answers() {
    let scheduler = scheduler("{}", &["a:1", "b:1"]);
    let home = pick(&scheduler, text("sys", 400), 0).endpoint;
    scheduler.scrape_failed(&home, ScrapeFailure::Unreachable, 0).unwrap();
    for number in 0..5 {
        assert_ne!(pick(&scheduler, text("sys", 400), number).endpoint, home);
    }
    scheduler.observe(&home, load(0.0, 0.0), 1).unwrap();
    let spread: std::collections::HashSet<_> =
        (0..8).map(|n| pick(&scheduler, text(&format!("n{n}"), 100), 1).endpoint).collect();
    assert!(spread.contains(&home));
}

#[test]
fn when_all_are_unreachable_one_is_picked_all_the_same() {
    let scheduler = scheduler("{}", &["a:1", "b:1"]);
    for name in ["a:1", "b:1"] {
        scheduler.scrape_failed(name, ScrapeFailure::Unreachable, 0).unwrap();
    }
    assert!(scheduler.pick(&Request::from_text("m", "hello"), 0).is_ok());
}

#[test]
fn a_subset_is_obeyed_with_and_without_port() {
    let scheduler = scheduler("{}", &["10.0.0.1:8000", "10.0.0.2:8000", "[::1]:8000"]);
    let mut request = Request::from_text("m", text("x", 100));
    for (allowed, expected) in
        [("10.0.0.2:8000", "10.0.0.2:8000"), ("10.0.0.1", "10.0.0.1:8000"), ("::1", "[::1]:8000")]
    {
        request.subset = Some(vec![allowed.to_owned()]);
        assert_eq!(&*scheduler.pick(&request, 0).unwrap().endpoint, expected);
    }
    request.subset = Some(vec!["10.0.0.9".to_owned()]);
    let error = scheduler.pick(&request, 0).unwrap_err();
    assert_eq!(error, Error::NoEligibleEndpoint { filter: "subset-filter", considered: 3 });
}

#[test]
fn models_and_salts_never_share_a_prefix() {
    let scheduler = scheduler("{}", &["a:1"]);
    let request = Request::from_text("m", text("same", 200));
    scheduler.pick(&request, 0).unwrap();
    let mut other_model = request.clone();
    other_model.model = "n".to_owned();
    let mut salted = request.clone();
    salted.cache_salt = Some("tenant".to_owned());
    let mut adapted = request.clone();
    adapted.adapter = Some("lora".to_owned());
    for stranger in [other_model, salted, adapted] {
        assert_eq!(scheduler.explain(&stranger, 0).unwrap().matched_tokens, 0);
    }
    assert_eq!(scheduler.explain(&request, 0).unwrap().matched_tokens, 192 + 8 - 8);
}

#[test]
fn a_restarted_engine_has_forgotten_everything() {
    let scheduler = scheduler("{}", &["a:1"]);
    let page = |total| {
        let mut metrics = EndpointMetrics::default();
        metrics.request_success_total = Some(total);
        metrics
    };
    scheduler.observe("a:1", page(7.0), 0).unwrap();
    pick(&scheduler, text("known", 100), 0);
    assert!(scheduler.stats(0).endpoints[0].index_blocks > 0);
    scheduler.observe("a:1", page(0.0), 1).unwrap();
    assert_eq!(scheduler.stats(0).endpoints[0].index_blocks, 0);
    assert_eq!(scheduler.stats(0).counters.engine_restarts, 1);
}

#[test]
fn the_engine_reports_the_capacity_of_its_index_entries() {
    let scheduler = scheduler("{}", &["a:1"]);
    let mut metrics = EndpointMetrics::default();
    (metrics.block_size_tokens, metrics.block_count) = (Some(32), Some(4));
    scheduler.observe("a:1", metrics, 0).unwrap();
    pick(&scheduler, text("long", 1_000), 0);
    assert_eq!(scheduler.stats(0).endpoints[0].index_blocks, 8, "4 blocks of 32 tokens are 8 of 16");
}

#[test]
fn a_load_header_changes_the_load_and_nothing_else() {
    let scheduler = scheduler("{}", &["a:1"]);
    let mut metrics = load(1.0, 0.1);
    (metrics.block_size_tokens, metrics.block_count) = (Some(16), Some(8));
    scheduler.observe("a:1", metrics, 0).unwrap();
    let header = r#"JSON {"named_metrics":{"num_requests_waiting":7.0,"kv_cache_usage_perc":0.5}}"#;
    scheduler.ingest_load_header("a:1", header, SECOND).unwrap();
    pick(&scheduler, text("long", 1_000), SECOND);
    let endpoint = scheduler.stats(SECOND).endpoints[0].clone();
    assert_eq!((endpoint.waiting_requests, endpoint.kv_cache_utilization), (Some(7.0), Some(0.5)));
    assert_eq!((endpoint.metrics_age_seconds, endpoint.index_blocks), (Some(0.0), 8), "the capacity stays");
    assert_eq!(scheduler.ingest_load_header("a:1", "CPU 1", 0).unwrap_err().code(), "InvalidMetrics");
    assert_eq!(scheduler.ingest_load_header("b:1", header, 0).unwrap_err().code(), "UnknownEndpoint");
}

#[test]
fn explain_says_why_and_records_nothing() {
    let scheduler = scheduler("{prefill_tokens_per_second: 1000}", &["a:1", "b:1"]);
    let warm = pick(&scheduler, text("sys", 160), 0);
    scheduler.observe("a:1", load(0.0, 0.25), 0).unwrap();
    let before = scheduler.stats(0);
    let decision = scheduler.explain(&Request::from_text("m", text("sys", 160)), 0).unwrap();
    assert_eq!(scheduler.stats(0), before);
    assert_eq!(decision.id, 0);
    let explanation = decision.explanation().unwrap();
    let best = &explanation.endpoints[0];
    assert_eq!(best.endpoint, warm.endpoint);
    let raw: Vec<_> = best.scores.iter().map(|score| (score.scorer, score.raw, score.weight)).collect();
    let utilization = if &*warm.endpoint == "a:1" { Some(0.25) } else { None };
    assert_eq!(raw[0], ("prefix-cache-scorer", Some(160.0), 3.0));
    assert_eq!(raw[1], ("queue-scorer", Some(0.16), 1.0));
    assert_eq!(raw[2], ("kv-cache-utilization-scorer", utilization, 1.0));
    let sum: f32 = best.scores.iter().map(|score| score.contribution).sum();
    assert!((best.total.unwrap() - sum).abs() < 1e-6);
    let distance = best.total.unwrap() - explanation.endpoints[1].total.unwrap();
    assert_eq!(explanation.runner_up_distance, Some(distance));
    assert!(explanation.to_string().contains("prefix-cache-scorer"), "{explanation}");
    let json = serde_json::to_value(explanation).unwrap();
    assert_eq!(json["endpoints"][0]["scores"][0]["scorer"], "prefix-cache-scorer");
}

#[test]
fn explain_decides_by_the_requests_that_have_not_expired() {
    let scheduler = scheduler("{bookings: {request_timeout_seconds: 60}}", &["a:1"]);
    pick(&scheduler, text("x", 100), 0);
    let in_flight = |now| {
        let decision = scheduler.explain(&Request::from_text("m", text("y", 100)), now).unwrap();
        decision.explanation().unwrap().endpoints[0].requests_in_flight
    };
    assert_eq!((in_flight(59 * SECOND), in_flight(60 * SECOND)), (1, 0));
}

#[test]
fn a_dropped_endpoint_is_explained() {
    let scheduler = scheduler("{prefill_tokens_per_second: 1000}", &["a:1", "b:1"]);
    let home = pick(&scheduler, text("sys", 8_000), 0);
    let mut request = Request::from_text("m", text("sys", 160));
    request.explain = true;
    let decision = scheduler.pick(&request, 0).unwrap();
    assert_ne!(decision.endpoint, home.endpoint);
    let dropped = decision.explanation().unwrap().endpoints.last().unwrap().clone();
    assert_eq!((dropped.endpoint, dropped.dropped_by), (home.endpoint, Some("load-gate-filter")));
    assert_eq!(dropped.gate_margin_seconds, Some(5.0 + 0.16 - 8.0));
}

#[test]
fn the_margin_is_the_one_that_the_gate_saw() {
    let scheduler = scheduler("{prefill_tokens_per_second: 1000}", &["a:1", "b:1", "c:1"]);
    let loaded = [pick(&scheduler, text("one", 1_000), 0), pick(&scheduler, text("two", 2_000), 0)];
    let mut request = Request::from_text("m", "short");
    request.subset = Some(loaded.iter().map(|decision| decision.endpoint.to_string()).collect());
    let explanation = scheduler.explain(&request, 0).unwrap().explanation().unwrap().clone();
    let margins: Vec<_> = explanation.endpoints.iter().map(|endpoint| endpoint.gate_margin_seconds).collect();
    assert_eq!(
        margins[..2],
        [Some(5.0), Some(4.0)],
        "the idle endpoint outside of the subset does not count"
    );
}

#[test]
fn fallbacks_follow_in_order_of_their_totals() {
    let scheduler = scheduler("{fallbacks: 5}", &["a:1", "b:1", "c:1"]);
    for (name, utilization) in [("a:1", 0.5), ("b:1", 0.1), ("c:1", 0.9)] {
        scheduler.observe(name, load(0.0, utilization), 0).unwrap();
    }
    let decision = pick(&scheduler, "short", 0);
    assert_eq!(&*decision.endpoint, "b:1");
    assert_eq!(decision.fallbacks.iter().map(|name| &**name).collect::<Vec<_>>(), ["a:1", "c:1"]);
}

#[test]
fn errors_change_nothing() {
    let empty = scheduler("{}", &[]);
    assert_eq!(empty.pick(&Request::from_text("m", "x"), 0).unwrap_err(), Error::NoEndpoints);
    let scheduler = scheduler("{}", &["a:1"]);
    let before = scheduler.stats(0);
    assert_eq!(scheduler.remove_endpoint("z").unwrap_err(), Error::UnknownEndpoint("z".to_owned()));
    assert_eq!(scheduler.observe("z", load(0.0, 0.0), 0).unwrap_err().code(), "UnknownEndpoint");
    assert_eq!(scheduler.first_token(1, 0).unwrap_err(), Error::UnknownRequest(1));
    assert_eq!(scheduler.complete(7, Outcome::default(), 0).unwrap_err(), Error::UnknownRequest(7));
    assert_eq!(scheduler.ingest_metrics("a:1", b"<html>", 0).unwrap_err().code(), "InvalidMetrics");
    let endpoints = vec![Endpoint::new("b:1"), Endpoint::new("")];
    assert_eq!(scheduler.set_endpoints(endpoints).unwrap_err().code(), "InvalidConfig");
    assert_eq!(scheduler.stats(0), before);
}

#[test]
fn a_removed_endpoint_takes_its_bookings_along() {
    let scheduler = scheduler("{}", &["a:1"]);
    let decision = pick(&scheduler, text("x", 100), 0);
    scheduler.remove_endpoint("a:1").unwrap();
    scheduler.add_endpoint(Endpoint::new("b:1")).unwrap();
    scheduler.complete(decision.id, Outcome::success(), 0).unwrap();
    let stats = scheduler.stats(0);
    assert_eq!((stats.endpoints[0].requests_in_flight, stats.requests_in_flight), (0, 0));
    assert_eq!(scheduler.explain(&Request::from_text("m", text("x", 100)), 0).unwrap().matched_tokens, 0);
}

#[test]
fn predicted_and_actual_cached_tokens_are_compared() {
    let scheduler = scheduler("{}", &["a:1"]);
    for cached in [0, 96, 64] {
        let decision = pick(&scheduler, text("x", 100), 0);
        let outcome = Outcome { cached_tokens: Some(cached), ..Outcome::success() };
        scheduler.complete(decision.id, outcome, 0).unwrap();
    }
    let endpoint = scheduler.stats(0).endpoints[0].clone();
    assert_eq!((endpoint.predicted_cached_tokens, endpoint.actual_cached_tokens), (192, 160));
}

#[test]
fn a_clock_that_goes_back_harms_nothing() {
    let scheduler = scheduler("{}", &["a:1"]);
    scheduler.observe("a:1", load(1.0, 0.1), 100 * SECOND).unwrap();
    let decision = pick(&scheduler, text("x", 1_000), 50 * SECOND);
    scheduler.first_token(decision.id, 10 * SECOND).unwrap();
    scheduler.complete(decision.id, Outcome::success(), 0).unwrap();
    assert_eq!(scheduler.stats(0).requests_in_flight, 0);
    let scheduler: Arc<Scheduler> = Arc::new(scheduler);
    assert!(format!("{scheduler:?}").contains("endpoints: 1"));
}
