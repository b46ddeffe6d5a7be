//! Everything at once from several threads, after which nothing is left over.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use p3sched::{
    Endpoint, EndpointMetrics, Error, Outcome, Request, Scheduler, SchedulerConfig, ScrapeFailure,
};

const STEADY: usize = 6;
const PICKERS: u64 = 3;
const PICKS_EACH: u64 = 3_000;

fn endpoint(number: usize) -> String {
    format!("10.0.0.{number}:8000")
}

fn request(seed: u64) -> Request {
    let shared = format!("tenant {:02} ", seed % 13).repeat(40);
    Request::from_text(
        "m",
        format!("{shared}{}", format!("question {seed} ").repeat(1 + (seed % 9) as usize)),
    )
}

/// Picks and reports in every order that a gateway can come up with.
fn pick_and_report(scheduler: &Scheduler, thread: u64, clock: &AtomicU64) {
    for number in 0..PICKS_EACH {
        let now = clock.fetch_add(1_000, Ordering::Relaxed);
        let decision = scheduler.pick(&request(thread * PICKS_EACH + number), now).unwrap();
        match number % 5 {
            0 => scheduler.complete(decision.id, Outcome::default(), now).unwrap(),
            1 => {
                scheduler.complete(decision.id, Outcome::success(), now).unwrap();
                scheduler.first_token(decision.id, now).unwrap();
            }
            2 => {
                let served_by = Some(endpoint(number as usize % (STEADY + 2)));
                scheduler.complete(decision.id, Outcome { served_by, ..Outcome::success() }, now).unwrap();
            }
            _ => {
                scheduler.first_token(decision.id, now + 500).unwrap();
                let cached_tokens = Some(decision.matched_tokens);
                let outcome = Outcome { cached_tokens, ..Outcome::success() };
                scheduler.complete(decision.id, outcome, now + 900).unwrap();
            }
        }
    }
}

/// Endpoints beyond the steady ones come, go, report, restart and fall silent.
fn disturb(scheduler: &Scheduler, clock: &AtomicU64, done: &AtomicBool) {
    let mut round = 0_usize;
    while !done.load(Ordering::Relaxed) {
        round += 1;
        let now = clock.load(Ordering::Relaxed);
        let name = endpoint(STEADY + round % 4);
        scheduler.add_endpoint(Endpoint::new(name.as_str())).unwrap();
        let mut metrics = EndpointMetrics::default();
        metrics.waiting_requests = Some((round % 7) as f64);
        metrics.block_size_tokens = Some(16);
        metrics.block_count = Some(50 + round as u64 % 200);
        // Counts back now and then, as a restarted engine does.
        metrics.request_success_total = Some((round % 50) as f64);
        scheduler.observe(&endpoint(round % STEADY), metrics, now).unwrap();
        scheduler.scrape_failed(&endpoint(round % STEADY), ScrapeFailure::Failed, now).unwrap();
        if round.is_multiple_of(3) {
            scheduler.remove_endpoint(&name).unwrap();
        }
        scheduler.explain(&request(round as u64), now).unwrap();
        let error = scheduler.observe("nobody:1", EndpointMetrics::default(), now).unwrap_err();
        assert_eq!(error, Error::UnknownEndpoint("nobody:1".to_owned()));
        if round.is_multiple_of(16) {
            scheduler.validate().unwrap();
            let snapshot = scheduler.snapshot();
            scheduler.restore(&snapshot).unwrap();
        }
    }
    assert!(round > 0);
}

#[test]
fn nothing_is_left_over() {
    let scheduler = Scheduler::new(SchedulerConfig::default()).unwrap();
    scheduler.set_endpoints((0..STEADY).map(|number| Endpoint::new(endpoint(number))).collect()).unwrap();
    let (clock, done) = (AtomicU64::new(1), AtomicBool::new(false));
    thread::scope(|scope| {
        let (scheduler, clock, done) = (&scheduler, &clock, &done);
        let disturber = scope.spawn(move || disturb(scheduler, clock, done));
        let pickers: Vec<_> = (0..PICKERS)
            .map(|thread| scope.spawn(move || pick_and_report(scheduler, thread, clock)))
            .collect();
        for picker in pickers {
            picker.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        disturber.join().unwrap();
    });
    scheduler.validate().unwrap();
    let stats = scheduler.stats(clock.into_inner());
    assert_eq!((stats.requests_in_flight, stats.counters.picks), (0, PICKERS * PICKS_EACH));
    assert_eq!(stats.counters.completed_requests, PICKERS * PICKS_EACH);
    for endpoint in &stats.endpoints {
        let left = (endpoint.requests_in_flight, endpoint.tokens_in_flight, endpoint.queued_tokens);
        assert_eq!(left, (0, 0, 0), "{}", endpoint.endpoint);
    }
}

/// What the order of the picks is cannot be known, so it must not matter: whoever comes second finds the first one's booking.
#[test]
fn threads_that_bring_one_cold_prompt_at_once_see_each_other() {
    const THREADS: usize = 20;
    let scheduler = Scheduler::new(SchedulerConfig::default()).unwrap();
    scheduler.set_endpoints((0..STEADY).map(|number| Endpoint::new(endpoint(number))).collect()).unwrap();
    let start = Barrier::new(THREADS);
    for round in 0..200 {
        let prompt = request(1_000_000 + round);
        let decisions: Vec<_> = thread::scope(|scope| {
            let pick = || {
                start.wait();
                scheduler.pick(&prompt, round).unwrap()
            };
            let pickers: Vec<_> = (0..THREADS).map(|_| scope.spawn(pick)).collect();
            pickers.into_iter().map(|picker| picker.join().unwrap()).collect()
        });
        let first = decisions.iter().min_by_key(|decision| decision.id).unwrap();
        let whole = first.prompt_tokens / 16 * 16;
        for decision in decisions.iter().filter(|decision| decision.id != first.id) {
            assert_eq!((&decision.endpoint, decision.matched_tokens), (&first.endpoint, whole));
        }
        let in_flight = |stats: p3sched::stats::Stats| {
            stats.endpoints.iter().map(|endpoint| endpoint.requests_in_flight as usize).sum::<usize>()
        };
        assert_eq!(in_flight(scheduler.stats(round)), THREADS);
        for decision in decisions {
            scheduler.complete(decision.id, Outcome::success(), round).unwrap();
        }
        assert_eq!(in_flight(scheduler.stats(round)), 0);
    }
}
