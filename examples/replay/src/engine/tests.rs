use super::*;

/// 10 ms per step and 1 ms per token, blocks of 10 tokens.
fn engine(blocks: usize, change: impl FnOnce(&mut EngineParameters)) -> Engine<'static> {
    let timing =
        Timing { step: 0.010, prompt: 0.0, token: 0.001, weights: 0.0, pair: 0.0, context_token: 0.0 };
    let mut parameters = EngineParameters {
        name: "test".to_owned(),
        timing,
        cache_tokens: 0,
        cache_blocks: Some(blocks),
        step_tokens: 100,
        max_running: 8,
        max_adapters: 1,
        adapter_load: 0.5,
    };
    change(&mut parameters);
    Engine::new(parameters, 10)
}

fn job(ticket: usize, blocks: &'static [u64], prompt_tokens: u32, output_tokens: u32) -> Job<'static> {
    Job { ticket, blocks, salt: 0, prompt_tokens, output_tokens, adapter: None }
}

/// Runs an engine to its end and gives each event with its time in ms.
fn run(engine: &mut Engine<'_>, until: u64) -> Vec<(u64, EngineEvent)> {
    let mut happened = Vec::new();
    let mut events = Vec::new();
    while let Some(next) = engine.next_event().filter(|next| *next <= until) {
        engine.advance(next, &mut events);
        happened.extend(events.drain(..).map(|event| (next / 1_000_000, event)));
    }
    happened
}

fn first(ticket: usize, cached_tokens: u32) -> EngineEvent {
    EngineEvent::FirstToken { ticket, cached_tokens }
}

fn finished(ticket: usize) -> EngineEvent {
    EngineEvent::Finished { ticket }
}

const ALWAYS: u64 = u64::MAX;
const MS: u64 = 1_000_000;

#[test]
fn a_cold_prompt_is_computed_in_chunks_and_its_answer_token_by_token() {
    let mut engine = engine(100, |_| {});
    engine.submit(job(1, &[], 250, 3), 0);
    // 110 + 110 + 60 ms for 100, 100 and 50 tokens; two more tokens of 11 ms each.
    assert_eq!(run(&mut engine, ALWAYS), [(280, first(1, 0)), (302, finished(1))]);
    assert_eq!(engine.totals.computed_tokens, 252);
    assert_eq!(engine.totals.busy, 302 * MS);
}

#[test]
fn what_would_happen_to_a_request_is_what_happens_to_it() {
    let mut engine = engine(100, |_| {});
    engine.submit(job(1, &[1, 2, 3, 4], 40, 30), 0);
    engine.submit(job(2, &[], 250, 5), 7 * MS);
    let before = engine.report(20 * MS);
    let next = job(3, &[1, 2, 3, 4], 49, 2);
    let (at, cached) = engine.first_token_of(next, 20 * MS).unwrap();
    assert_eq!((engine.report(20 * MS), cached), (before, 40), "it was only asked");
    engine.submit(next, 20 * MS);
    assert!(run(&mut engine, ALWAYS).contains(&(at / MS, first(3, 40))));
}

#[test]
fn cached_blocks_are_not_computed_but_for_the_last_token() {
    let mut engine = engine(100, |_| {});
    engine.submit(job(1, &[1, 2, 3, 4], 40, 1), 0);
    assert_eq!(run(&mut engine, ALWAYS), [(50, first(1, 0)), (50, finished(1))]);
    // The same again: three blocks are found, the fourth holds the last token.
    engine.submit(job(2, &[1, 2, 3, 4], 40, 1), 50 * MS);
    assert_eq!(run(&mut engine, ALWAYS), [(70, first(2, 30)), (70, finished(2))]);
    engine.submit(job(3, &[1, 2, 9], 35, 1), 70 * MS);
    assert_eq!(run(&mut engine, ALWAYS), [(95, first(3, 20)), (95, finished(3))]);
    assert_eq!((engine.totals.found_tokens, engine.totals.queried_tokens), (50, 115));
}

#[test]
fn an_answer_is_found_by_the_next_turn() {
    let mut engine = engine(100, |_| {});
    // The answer's tokens 11 to 29 fill the second block; the last token is never computed.
    engine.submit(job(1, &[1, 2, 3], 11, 10), 0);
    run(&mut engine, ALWAYS);
    engine.submit(job(2, &[1, 2, 3], 30, 1), 1_000 * MS);
    assert_eq!(run(&mut engine, ALWAYS)[0].1, first(2, 20));
}

#[test]
fn two_prompts_share_a_step_and_one_that_arrives_waits_for_its_end() {
    let mut engine = engine(100, |_| {});
    engine.submit(job(1, &[], 20, 2), 0);
    engine.submit(job(2, &[], 30, 2), 10 * MS);
    // 30 ms for the first alone; then its token and the second prompt together, 10 + 1 + 30 ms; then 11 ms.
    let expected = [(30, first(1, 0)), (71, finished(1)), (71, first(2, 0)), (82, finished(2))];
    assert_eq!(run(&mut engine, ALWAYS), expected);
}

#[test]
fn an_arrival_in_the_middle_of_many_steps_waits_for_one() {
    let mut engine = engine(100, |_| {});
    engine.submit(job(1, &[], 10, 100), 0);
    assert_eq!(run(&mut engine, 25 * MS), [(20, first(1, 0))]);
    assert_eq!(engine.next_event(), Some((20 + 99 * 11) * MS), "99 steps at once");
    // At 60 ms three steps of 11 ms have ended and the fourth ends at 64 ms.
    engine.submit(job(2, &[], 10, 1), 60 * MS);
    assert_eq!(engine.next_event(), Some(64 * MS));
    // Then 10 + 1 + 10 ms, and the 94 tokens that are left.
    let expected = [(85, first(2, 0)), (85, finished(2)), (85 + 94 * 11, finished(1))];
    assert_eq!(run(&mut engine, ALWAYS), expected);
}

#[test]
fn what_is_read_of_the_context_grows_with_every_token() {
    let mut engine = engine(100, |parameters| parameters.timing.context_token = 0.001);
    engine.submit(job(1, &[], 10, 4), 0);
    // 20 ms; then 11 ms and 10, 11 and 12 ms for the context.
    assert_eq!(run(&mut engine, ALWAYS), [(20, first(1, 0)), (86, finished(1))]);
}

#[test]
fn a_full_cache_makes_the_last_request_start_over() {
    let mut engine = engine(4, |_| {});
    engine.submit(job(1, &[], 19, 12), 0);
    engine.submit(job(2, &[], 19, 3), 0);
    // Both prompts are computed (10 + 19, then 10 + 1 + 19 ms); the first one's 21st token needs a third block.
    let happened = run(&mut engine, ALWAYS);
    assert_eq!(happened[0], (29, first(1, 0)));
    assert_eq!(happened[1], (59, first(2, 0)));
    assert_eq!(engine.totals.preempted, 1);
    assert!(happened.contains(&(70 + 9 * 11, finished(1))), "{happened:?}");
    assert_eq!(happened.last().unwrap().1, finished(2));
    assert_eq!(engine.report(ALWAYS).kv_usage, 0.0);
}

#[test]
fn the_report_says_what_waits_runs_and_is_held() {
    let mut engine = engine(10, |parameters| parameters.max_running = 1);
    engine.submit(job(1, &[], 30, 20), 0);
    engine.submit(job(2, &[], 30, 20), 0);
    let report = engine.report(0);
    assert_eq!((report.waiting, report.running, report.kv_usage), (1, 1, 0.3));
    run(&mut engine, ALWAYS);
    let report = engine.report(ALWAYS);
    assert_eq!((report.waiting, report.running, report.kv_usage), (0, 0, 0.0));
    assert_eq!(report.totals.answered, 2);
}

#[test]
fn an_adapter_waits_for_its_place_and_takes_time_to_load() {
    let mut engine = engine(100, |_| {});
    let with = |ticket, adapter| Job { adapter: Some(adapter), ..job(ticket, &[], 10, 2) };
    engine.submit(with(1, 7), 0);
    engine.submit(with(2, 8), 0);
    assert_eq!(engine.report(0).waiting_adapters, [8]);
    // 500 + 20 + 11 ms with the first adapter, then the same with the second.
    let expected = [(520, first(1, 0)), (531, finished(1)), (1051, first(2, 0)), (1062, finished(2))];
    assert_eq!(run(&mut engine, ALWAYS), expected);
}
