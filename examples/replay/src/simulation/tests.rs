use super::*;
use crate::engine::{EngineParameters, Timing};
use crate::policy::Policy;
use crate::result::Summary;
use crate::trace::TraceRequest;
use crate::workload::Workload;

const SECOND: u64 = 1_000_000_000;

/// 10 ms per step and 1 ms per token.
fn engine(blocks: usize) -> EngineParameters {
    EngineParameters {
        name: "test".to_owned(),
        timing: Timing {
            step: 0.010,
            prompt: 0.0,
            token: 0.001,
            weights: 0.0,
            pair: 0.0,
            context_token: 0.0,
        },
        cache_tokens: 0,
        cache_blocks: Some(blocks),
        step_tokens: 2048,
        max_running: 8,
        max_adapters: 1,
        adapter_load: 0.5,
    }
}

fn options(policy: &str, replicas: usize) -> Options {
    Options::new(Policy::parse(policy).unwrap(), &engine(1000), replicas)
}

/// So many requests with one prompt of 160 tokens, a second apart.
fn same_prompt(count: u64) -> Trace {
    let mut trace = Trace::new("same", 16);
    let chain = trace.add_chain(0..10);
    for at in 0..count {
        trace.push(TraceRequest { prompt_tokens: 160, ..TraceRequest::new(at * SECOND, chain) });
    }
    trace
}

fn run(trace: &Trace, options: &Options) -> Replayed {
    replay(trace, options, &|_| {}).unwrap()
}

#[test]
fn a_prompt_stays_where_it_is_cached() {
    let replayed = run(&same_prompt(5), &options("default", 3));
    let home = replayed.requests[0].replica;
    for (at, request) in replayed.requests.iter().enumerate() {
        // 170 ms cold; the last of ten blocks is computed again: 26 ms.
        let (cached, time) = if at == 0 { (0, 170_000_000) } else { (144, 26_000_000) };
        assert_eq!((request.replica, request.cached_tokens), (home, cached));
        assert_eq!(request.first_token - request.arrival, time);
    }
    let spread = run(&same_prompt(6), &options("round-robin", 3));
    assert_eq!(Summary::of(&spread).cached_ratio, 3.0 * 144.0 / 960.0);
    assert_eq!(Summary::of(&spread).max_over_mean_requests, 1.0);
}

#[test]
fn the_same_seed_makes_the_same_run() {
    let trace = Workload::parse("mixed:conversation.conversations=300").unwrap().generate(2);
    for policy in ["default", "random", "power-of-two", "sglang-cache-aware", "literal-3-1-1"] {
        let options = Options {
            seed: 7,
            schedulers: Schedulers { count: 2, sharing: Sharing::Private },
            ..options(policy, 4)
        };
        assert_eq!(run(&trace, &options), run(&trace, &options), "{policy}");
    }
}

#[test]
fn clients_send_when_they_are_answered() {
    let mut options = options("round-robin", 1);
    options.arrivals = Arrivals::Clients { count: 1 };
    let replayed = run(&same_prompt(3), &options);
    for pair in replayed.requests.windows(2) {
        assert_eq!(pair[1].arrival, pair[0].end);
    }
}

#[test]
fn a_session_waits_for_its_answer_and_thinks() {
    let mut trace = same_prompt(2);
    trace.requests[1].previous = Some(0);
    trace.requests[1].think_time = 3 * SECOND;
    let mut options = options("round-robin", 1);
    options.arrivals = Arrivals::Sessions { speed: 1.0 };
    let replayed = run(&trace, &options);
    assert_eq!(replayed.requests[1].arrival, replayed.requests[0].end + 3 * SECOND);
}

#[test]
fn repetitions_come_one_after_the_other_and_share_nothing() {
    let replayed = run(&same_prompt(2), &Options { repeat: 2, ..options("default", 1) });
    let cached: Vec<_> = replayed.requests.iter().map(|request| request.cached_tokens).collect();
    assert_eq!(cached, [0, 144, 0, 144]);
    assert_eq!(replayed.requests[2].arrival, SECOND + 1);
}

#[test]
fn requests_of_a_failed_replica_are_sent_again_and_its_cache_is_gone() {
    let mut options = options("default", 2);
    // The first request is computed from 0 to 0.17 s.
    options.failures =
        vec![Failure { replica: 0, at: 0.1, lasts: 2.5 }, Failure { replica: 1, at: 3.5, lasts: 10.0 }];
    let replayed = run(&same_prompt(6), &options);
    assert!(replayed.requests.iter().all(|request| !request.failed));
    let replicas: Vec<_> = replayed.requests.iter().map(|request| request.replica).collect();
    assert_eq!(replicas[1..], [1, 1, 1, 0, 0]);
    assert_eq!(replayed.requests[4].cached_tokens, 0);
    assert_eq!(replayed.requests[5].cached_tokens, 144);
    let alone = Options {
        failures: vec![Failure { replica: 0, at: 0.1, lasts: 9.0 }],
        ..self::options("default", 1)
    };
    let without = run(&same_prompt(1), &alone);
    assert!(without.requests[0].failed);
}

#[test]
fn shared_schedulers_pick_as_one() {
    let trace = Workload::parse("shared-prefix:groups=40:conversations=400:rate=4").unwrap().generate(5);
    let of = |count, sharing| {
        let options = Options { schedulers: Schedulers { count, sharing }, ..options("default", 4) };
        Summary::of(&run(&trace, &options)).cached_ratio
    };
    let (one, shared, private) = (of(1, Sharing::Private), of(4, Sharing::Shared), of(4, Sharing::Private));
    assert!((one - shared).abs() < 0.01 && private < one - 0.02, "{one} {shared} {private}");
}

#[test]
fn a_snapshot_keeps_what_a_restart_forgets() {
    let of = |snapshot| {
        let restarts = vec![SchedulerRestart { scheduler: 0, at: 2.5, snapshot }];
        let replayed = run(&same_prompt(5), &Options { restarts, ..options("default", 3) });
        replayed.requests[3].predicted_tokens
    };
    assert_eq!((of(true), of(false)), (160, 0));
}

#[test]
fn engines_on_one_machine_slow_each_other_down() {
    let mut trace = Trace::new("two", 16);
    for at in [0, 0, SECOND] {
        let chain = trace.add_chain([at]);
        trace.push(TraceRequest { prompt_tokens: 90, ..TraceRequest::new(at, chain) });
    }
    let options =
        Options { machine: Some(Machine { cores: 1.0, threads: 1.0 }), ..options("round-robin", 2) };
    let replayed = run(&trace, &options);
    let times: Vec<_> =
        replayed.requests.iter().map(|request| (request.end - request.arrival) / 1_000_000).collect();
    assert_eq!(times, [200, 200, 100]);
}

#[test]
fn a_page_counts_once_it_has_come() {
    let mut trace = Trace::new("late", 16);
    // Eight requests fill the first replica from the start; all others come while they are computed.
    for at in 0..20 {
        let chain = trace.add_chain([at]);
        let arrival = if at < 8 { 0 } else { SECOND };
        trace.push(TraceRequest { prompt_tokens: 2000, ..TraceRequest::new(arrival, chain) });
    }
    let waits_with = |delay| {
        let policy = "literal-3-1-1:prefix-cache-scorer=0:kv-cache-utilization-scorer=0";
        let options = Options { scrape: Scrape { period: 0.5, delay }, ..options(policy, 2) };
        let replayed = run(&trace, &options);
        replayed.requests[8..]
            .iter()
            .filter(|request| request.replica == replayed.requests[8].replica)
            .count()
    };
    // With the pages of 0.5 s one replica has the shorter queue; before any page there is nothing but chance.
    assert_eq!(waits_with(0.1), 12);
    assert!(waits_with(5.0) < 12);
}

#[test]
fn explanations_are_kept_for_those_that_are_asked_for() {
    let replayed = run(&same_prompt(3), &Options { explain: vec![1], ..options("default", 3) });
    let [explained] = &replayed.decisions[..] else { panic!("one decision") };
    assert_eq!(explained.request, 1);
    assert!(explained.decision.explanation().is_some());
}

#[test]
fn what_cannot_work_is_refused() {
    let refused = |options: &Options| replay(&same_prompt(1), options, &|_| {}).unwrap_err().to_string();
    assert_eq!(refused(&options("default", 0)), "replicas must be 1 or more: `0`");
    let mut other_model = options("default", 1);
    other_model.replicas[0].models = vec![1];
    assert_eq!(refused(&other_model), "no replica serves the model: `model`");
}
