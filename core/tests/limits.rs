//! What happens at the edges: none, one and very many endpoints, empty and huge prompts, no capacity, numbers that are none.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use p3sched::{Endpoint, EndpointMetrics, Error, Outcome, Request, Scheduler, SchedulerConfig};

const SECOND: u64 = 1_000_000_000;

fn scheduler(endpoints: usize) -> Scheduler {
    let scheduler = Scheduler::new(SchedulerConfig::default()).unwrap();
    (0..endpoints).for_each(|number| scheduler.add_endpoint(Endpoint::new(name(number))).unwrap());
    scheduler
}

fn name(number: usize) -> String {
    format!("10.0.{}.{}:8000", number / 256, number % 256)
}

fn text(bytes: usize) -> Request {
    Request::from_text("m", "It was a dark and stormy night. ".repeat(bytes / 32))
}

/// Everything is as if the scheduler had just been made with its endpoints.
fn assert_at_rest(scheduler: &Scheduler) {
    let stats = scheduler.stats(0);
    assert_eq!(stats.requests_in_flight, 0);
    for endpoint in &stats.endpoints {
        assert_eq!(
            (endpoint.requests_in_flight, endpoint.tokens_in_flight, endpoint.queued_tokens),
            (0, 0, 0)
        );
    }
    assert_eq!(scheduler.validate(), Ok(()));
}

#[test]
fn no_endpoints() {
    let scheduler = scheduler(0);
    assert_eq!(scheduler.pick(&text(320), 0), Err(Error::NoEndpoints));
    assert_eq!(scheduler.explain(&text(320), 0), Err(Error::NoEndpoints));
    assert_eq!(scheduler.remove_endpoint("a:1"), Err(Error::UnknownEndpoint("a:1".to_owned())));
    assert!(scheduler.stats(0).endpoints.is_empty());
    assert_at_rest(&scheduler);
}

#[test]
fn one_endpoint_is_picked_whatever_its_load() {
    let scheduler = scheduler(1);
    let mut full = EndpointMetrics::default();
    full.waiting_requests = Some(10_000.0);
    full.kv_cache_utilization = Some(1.0);
    scheduler.observe(&name(0), full, 0).unwrap();
    for _ in 0..3 {
        let decision = scheduler.pick(&text(320), 0).unwrap();
        assert_eq!(*decision.endpoint, *name(0));
        scheduler.complete(decision.id, Outcome::success(), 0).unwrap();
    }
    assert_at_rest(&scheduler);
}

#[test]
fn four_thousand_endpoints() {
    let scheduler = scheduler(4_096);
    let first = scheduler.pick(&text(3_200), 0).unwrap();
    let again = scheduler.pick(&text(3_200), 0).unwrap();
    assert_eq!(first.endpoint, again.endpoint);
    assert_eq!(again.matched_tokens, 800);
    let spread: std::collections::BTreeSet<_> = (0..512)
        .map(|number| {
            let request = Request::from_text("m", format!("{number:_>64}"));
            let decision = scheduler.pick(&request, 0).unwrap();
            scheduler.complete(decision.id, Outcome::success(), 0).unwrap();
            decision.endpoint
        })
        .collect();
    assert!(spread.len() > 250, "{} endpoints", spread.len());
    for id in [first.id, again.id] {
        scheduler.complete(id, Outcome::success(), 0).unwrap();
    }
    assert_eq!(scheduler.explain(&text(320), 0).unwrap().explanation().unwrap().endpoints.len(), 4_096);
    (0..4_095).for_each(|number| scheduler.remove_endpoint(&name(number)).unwrap());
    assert_eq!(*scheduler.pick(&text(320), 0).unwrap().endpoint, *name(4_095));
}

#[test]
fn an_empty_prompt() {
    let scheduler = scheduler(2);
    for request in [Request::from_text("m", ""), Request::from_tokens("m", []), Request::from_text("", "")] {
        let decision = scheduler.pick(&request, 0).unwrap();
        assert_eq!((decision.prompt_tokens, decision.matched_tokens), (0, 0));
        scheduler.complete(decision.id, Outcome::success(), 0).unwrap();
    }
    assert_eq!(scheduler.stats(0).index.unique_blocks, 0);
    assert_at_rest(&scheduler);
}

#[test]
fn a_prompt_of_ten_megabytes() {
    let scheduler = scheduler(3);
    let text = "It was a dark and stormy night. ".repeat(10 * 1024 * 1024 / 32);
    let body = serde_json::json!({"model": "m", "messages": [{"role": "user", "content": text}]}).to_string();
    let request = Request::from_body("/v1/chat/completions", body.as_bytes()).unwrap();
    let first = scheduler.pick(&request, 0).unwrap();
    let second = scheduler.pick(&request, 1).unwrap();
    assert_eq!(first.endpoint, second.endpoint);
    assert!(first.prompt_tokens >= 2_621_440, "{}", first.prompt_tokens);
    assert!(second.prompt_tokens - second.matched_tokens < 16);
    for id in [first.id, second.id] {
        scheduler.complete(id, Outcome::success(), 2).unwrap();
    }
    assert_at_rest(&scheduler);
}

#[test]
fn no_capacity_at_all() {
    let config = serde_norway::from_str("default_capacity_tokens: 0").unwrap();
    let scheduler = Scheduler::new(config).unwrap();
    scheduler.add_endpoint(Endpoint::new("a:1")).unwrap();
    for _ in 0..2 {
        let decision = scheduler.pick(&text(320), 0).unwrap();
        assert_eq!(decision.matched_tokens, 0);
        scheduler.complete(decision.id, Outcome::success(), 0).unwrap();
    }
    assert_eq!(scheduler.stats(0).index.unique_blocks, 0);
    let mut metrics = EndpointMetrics::default();
    (metrics.block_size_tokens, metrics.block_count) = (Some(16), Some(0));
    scheduler.observe("a:1", metrics, 0).unwrap();
    assert_eq!(scheduler.pick(&text(320), 0).unwrap().matched_tokens, 0);
}

#[test]
fn numbers_that_are_none_or_make_no_sense() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 1e300] {
        for preset in p3sched::preset::names() {
            let scheduler = Scheduler::new(SchedulerConfig::preset(preset).unwrap()).unwrap();
            for number in 0..3 {
                scheduler.add_endpoint(Endpoint::new(name(number))).unwrap();
            }
            let mut metrics = EndpointMetrics::default();
            metrics.waiting_requests = Some(value);
            metrics.running_requests = Some(value);
            metrics.kv_cache_utilization = Some(value);
            metrics.request_success_total = Some(value);
            scheduler.observe(&name(0), metrics, 0).unwrap();
            for now in [0, 1, SECOND] {
                let mut request = text(320);
                request.explain = true;
                let decision = scheduler.pick(&request, now).unwrap();
                let explanation = decision.explanation().unwrap();
                let scores = explanation.endpoints.iter().flat_map(|endpoint| &endpoint.scores);
                for score in scores {
                    assert!((0.0..=1.0).contains(&score.score), "{value} {preset}: {score:?}");
                }
                scheduler.first_token(decision.id, now).unwrap();
                scheduler.complete(decision.id, Outcome::success(), now).unwrap();
            }
            assert_at_rest(&scheduler);
        }
    }
}

#[test]
fn a_clock_that_goes_backwards_or_jumps_ahead() {
    let scheduler = scheduler(2);
    let mut ids = Vec::new();
    for now in [10 * SECOND, 0, u64::MAX, 5 * SECOND, u64::MAX - 1, 1] {
        scheduler.observe(&name(0), EndpointMetrics::default(), now).unwrap();
        ids.push(scheduler.pick(&text(3_200), now).unwrap().id);
        scheduler.first_token(ids[ids.len() - 1], now / 2).unwrap();
        scheduler.stats(now);
    }
    for id in ids {
        scheduler.complete(id, Outcome::success(), 0).unwrap();
        scheduler.complete(id, Outcome::success(), 0).unwrap();
    }
    assert_at_rest(&scheduler);
}

#[test]
fn an_endpoint_that_is_named_twice_is_one() {
    let scheduler = scheduler(0);
    scheduler.set_endpoints(vec![Endpoint::new("a:1"), Endpoint::new("b:1"), Endpoint::new("a:1")]).unwrap();
    scheduler.add_endpoint(Endpoint::new("a:1")).unwrap();
    assert_eq!(scheduler.stats(0).endpoints.len(), 2);
    let decision = scheduler.pick(&text(320), 0).unwrap();
    // The second time keeps what is in flight.
    scheduler.add_endpoint(Endpoint::new(&*decision.endpoint)).unwrap();
    assert_eq!(scheduler.stats(0).requests_in_flight, 1);
    scheduler.complete(decision.id, Outcome::success(), 0).unwrap();
    assert_at_rest(&scheduler);
    scheduler.remove_endpoint("a:1").unwrap();
    assert_eq!(*scheduler.pick(&text(320), 0).unwrap().endpoint, *"b:1");
}

#[test]
fn ids_that_no_pick_gave_out() {
    let scheduler = scheduler(1);
    let id = scheduler.pick(&text(320), 0).unwrap().id;
    for unknown in [0, id + 1, u64::MAX] {
        assert_eq!(scheduler.first_token(unknown, 0), Err(Error::UnknownRequest(unknown)));
        assert_eq!(scheduler.complete(unknown, Outcome::success(), 0), Err(Error::UnknownRequest(unknown)));
    }
    scheduler.complete(id, Outcome::success(), 0).unwrap();
    assert_at_rest(&scheduler);
}
