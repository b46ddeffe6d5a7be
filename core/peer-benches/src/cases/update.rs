//! Stores and removals at a steady state, and the worst single store.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use dynamo_kv_router::ConcurrentRadixTreeCompressed;
use dynamo_kv_router::RouterEvent;
use p3sched::prefix_index::{EventIndex, PrefixIndex};

use super::{Case, events, speed_up};
use crate::Settings;
use crate::measure::Sample;
use crate::peers::dynamo;
use crate::report::{Figure, Goal, time_text};
use crate::workload::{self, extend, path};

const CHAIN: usize = 128;

/// Each step stores something on an endpoint that is full, so that it forgets as much.
struct Step {
    endpoint: u32,
    /// The whole path that the endpoint has used.
    path: Vec<u64>,
    /// Blocks at the end of the path that are new to the endpoint.
    new: usize,
    /// The path of which some blocks go for it.
    old: Vec<u64>,
    forgotten: Range<usize>,
}

/// Endpoints at capacity, and what they then do.
struct Workload {
    endpoints: u32,
    capacity: usize,
    /// What every endpoint holds at first.
    held: Vec<(u32, Vec<u64>)>,
    rounds: Vec<Vec<Step>>,
}

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("update/picks/unique-chains", |settings| {
            by_picks("unique-chains", 2.0, unique_chains(settings))
        }),
        Case::new("update/picks/shared-chains", |settings| {
            by_picks("shared-chains", 5.0, shared_chains(settings))
        }),
        Case::new("update/picks/decode", |settings| by_picks("decode", 3.0, decode(settings))),
        Case::new("update/events/unique-chains", |settings| {
            by_events("unique-chains", 2.0, unique_chains(settings))
        }),
        Case::new("update/events/shared-chains", |settings| {
            by_events("shared-chains", 5.0, shared_chains(settings))
        }),
        Case::new("update/events/decode", |settings| by_events("decode", 3.0, decode(settings))),
        Case::new("update/token-events/unique-chains", |settings| {
            by_token_events("unique-chains", unique_chains(settings))
        }),
        Case::new("update/token-events/shared-chains", |settings| {
            by_token_events("shared-chains", shared_chains(settings))
        }),
        Case::new("update/token-events/decode", |settings| by_token_events("decode", decode(settings))),
        Case::new("update/worst-store", worst_store),
        Case::new("update/worst-insert-while-growing", worst_insert_while_growing),
    ]
}

fn rounds(settings: &Settings) -> usize {
    if settings.quick { 3 } else { 51 }
}

/// Chains that no other endpoint holds.
fn unique_chains(settings: &Settings) -> Workload {
    let endpoints = 8;
    let chains_each = if settings.quick { 100 } else { 2_000 };
    let held = chains_each * u64::from(endpoints);
    let endpoint = |number: u64| (number % u64::from(endpoints)) as u32;
    let step = |number: u64| Step {
        endpoint: endpoint(number),
        path: path(number, CHAIN),
        new: CHAIN,
        old: path(number - held, CHAIN),
        forgotten: 0..CHAIN,
    };
    let round = |round: usize| (0..400).map(|at| step(held + round as u64 * 400 + at)).collect();
    Workload {
        endpoints,
        capacity: chains_each as usize * CHAIN,
        held: (0..held).map(|number| (endpoint(number), path(number, CHAIN))).collect(),
        rounds: (0..rounds(settings)).map(round).collect(),
    }
}

/// Chains that 64 endpoints hold, each stored on all of them in turn.
fn shared_chains(settings: &Settings) -> Workload {
    let endpoints = 64;
    let chains_each = if settings.quick { 20 } else { 500 };
    let everyone = move |number: u64| (0..endpoints).map(move |endpoint| (endpoint, path(number, CHAIN)));
    let step = move |(endpoint, path): (u32, Vec<u64>), number: u64| Step {
        endpoint,
        path,
        new: CHAIN,
        old: workload::path(number - chains_each, CHAIN),
        forgotten: 0..CHAIN,
    };
    let round = |round: usize| {
        let numbers = (0..8).map(|at| chains_each + round as u64 * 8 + at);
        numbers.flat_map(|number| everyone(number).map(move |held| step(held, number))).collect()
    };
    Workload {
        endpoints,
        capacity: chains_each as usize * CHAIN,
        held: (0..chains_each).flat_map(everyone).collect(),
        rounds: (0..rounds(settings)).map(round).collect(),
    }
}

/// Sequences that grow by one block at a time while the oldest chains shrink by one.
fn decode(settings: &Settings) -> Workload {
    let (endpoints, sequences) = (16, 16);
    let rounds = rounds(settings);
    let old_chains = (sequences * rounds).div_ceil(CHAIN) + 1;
    let old = |endpoint: u32, at: usize| path(u64::from(endpoint) << 32 | at as u64, CHAIN);
    let growing = |endpoint: u32, sequence: usize, blocks: usize| {
        path(1 << 50 | u64::from(endpoint) << 32 | sequence as u64, CHAIN + blocks)
    };
    let mut held = Vec::new();
    for endpoint in 0..endpoints {
        held.extend((0..old_chains).map(|at| (endpoint, old(endpoint, at))));
        held.extend((0..sequences).map(|sequence| (endpoint, growing(endpoint, sequence, 0))));
    }
    let round = |round: usize| {
        let mut steps = Vec::new();
        for sequence in 0..sequences {
            // Of the oldest chain the deepest block that is left.
            let gone = round * sequences + sequence;
            for endpoint in 0..endpoints {
                let end = CHAIN - gone % CHAIN;
                steps.push(Step {
                    endpoint,
                    path: growing(endpoint, sequence, round + 1),
                    new: 1,
                    old: old(endpoint, gone / CHAIN),
                    forgotten: end - 1..end,
                });
            }
        }
        steps
    };
    let capacity = (old_chains + sequences) * CHAIN;
    Workload { endpoints, capacity, held, rounds: (0..rounds).map(round).collect() }
}

/// What our own picks teach: the index forgets by itself.
fn by_picks(name: &str, goal: f64, workload: Workload) -> Result<Vec<Figure>> {
    let mut index = PrefixIndex::new(usize::MAX);
    for endpoint in 0..workload.endpoints {
        index.set_capacity(endpoint, workload.capacity);
    }
    for (endpoint, path) in &workload.held {
        index.insert(*endpoint, path);
    }
    let use_path = |step: &Step| (step.endpoint, step.path.clone());
    let rounds: Vec<Vec<_>> =
        workload.rounds.iter().map(|steps| steps.iter().map(use_path).collect()).collect();
    let (ours, theirs) = beside_dynamo(&workload, move |round| {
        for (endpoint, path) in &rounds[round] {
            index.insert(*endpoint, path);
        }
    })?;
    let mut figure =
        speed_up(format!("update/picks/{name}"), Goal::AtLeast(goal), &ours, "dynamo's radix tree", &theirs);
    figure.detail += " per block";
    Ok(vec![figure])
}

/// What engines tell, hashed: both sides are given the hashes of the new blocks and the engine's names for them.
fn by_events(name: &str, goal: f64, workload: Workload) -> Result<Vec<Figure>> {
    let mut index = EventIndex::new();
    (0..workload.endpoints).for_each(|endpoint| index.add_lane(endpoint));
    for (endpoint, path) in &workload.held {
        events::Stored::new(path, 0).apply(&mut index, *endpoint);
    }
    let (endpoints, held) = (workload.endpoints, workload.capacity);
    let prepare = |step: &Step| {
        let stored = events::Stored::new(&step.path, step.path.len() - step.new);
        (step.endpoint, stored, events::names(&step.old[step.forgotten.clone()]))
    };
    let rounds: Vec<Vec<_>> =
        workload.rounds.iter().map(|steps| steps.iter().map(prepare).collect()).collect();
    let (ours, theirs) = beside_dynamo(&workload, move |round| {
        for (endpoint, stored, gone) in &rounds[round] {
            stored.apply(&mut index, *endpoint);
            index.remove_all(*endpoint, gone.iter().rev().copied());
        }
        assert!(
            (0..endpoints).all(|endpoint| index.block_count(endpoint) == held),
            "every event is understood"
        );
    })?;
    let mut figure =
        speed_up(format!("update/events/{name}"), Goal::AtLeast(goal), &ours, "dynamo's radix tree", &theirs);
    figure.detail += " per block";
    Ok(vec![figure])
}

/// What engines tell, as they tell it: we hash the token ids while the peer is given the hashes.
fn by_token_events(name: &str, workload: Workload) -> Result<Vec<Figure>> {
    let scheduler = events::scheduler(workload.endpoints)?;
    for (endpoint, path) in &workload.held {
        scheduler.apply_kv_event(&endpoint.to_string(), &events::stored(path, 0), 0)?;
    }
    let events_of = |step: &Step| {
        let known = step.path.len() - step.new;
        let events = [
            events::stored(&step.path, known),
            events::removed_blocks(step.old[step.forgotten.clone()].iter().rev()),
        ];
        (step.endpoint.to_string(), events)
    };
    let rounds: Vec<Vec<_>> =
        workload.rounds.iter().map(|steps| steps.iter().map(events_of).collect()).collect();
    let (ours, theirs) = beside_dynamo(&workload, move |round| {
        for (endpoint, events) in &rounds[round] {
            for event in events {
                scheduler.apply_kv_event(endpoint, event, 0).ok();
            }
        }
        let counters = scheduler.stats(0).counters;
        assert_eq!(counters.orphaned_kv_events + counters.skipped_kv_events, 0, "every event is understood");
    })?;
    let name = format!("update/token-events/{name}");
    let mut figure = speed_up(name, Goal::None, &ours, "dynamo's radix tree", &theirs);
    figure.detail += " per block, our hashing included";
    Ok(vec![figure])
}

/// Nanoseconds per block stored or removed of both sides, round by round in turn.
fn beside_dynamo(
    workload: &Workload,
    mut run_ours: impl FnMut(usize) + Send + 'static,
) -> Result<(Sample, Sample)> {
    let fill = workload.held.iter().map(|(endpoint, path)| dynamo::stored(*endpoint, path, 0)).collect();
    let events = workload.rounds.iter().map(|steps| steps.iter().flat_map(events_of).collect());
    let events = std::iter::once(fill).chain(events).collect();
    let rounds = workload.rounds.len();
    let times = Arc::new(Mutex::new((Vec::new(), Vec::new())));
    let recorded = Arc::clone(&times);
    let mut their_start = Instant::now();
    // The first flush ends the filling, the next ones a round each.
    dynamo::apply_rounds(&ConcurrentRadixTreeCompressed::new(), events, move |flush| {
        let theirs = their_start.elapsed();
        let mut recorded = recorded.lock().unwrap_or_else(PoisonError::into_inner);
        if flush > 0 {
            recorded.1.push(theirs);
        }
        if flush < rounds {
            let start = Instant::now();
            run_ours(flush);
            recorded.0.push(start.elapsed());
        }
        their_start = Instant::now();
    })?;
    let recorded = times.lock().unwrap_or_else(PoisonError::into_inner);
    let blocks = |steps: &Vec<Step>| steps.iter().map(|step| (step.new + step.forgotten.len()) as f64).sum();
    let blocks: Vec<f64> = workload.rounds.iter().map(blocks).collect();
    let sample = |times: &[Duration]| {
        let each = times.iter().zip(&blocks).map(|(time, blocks)| time.as_nanos() as f64 / blocks);
        Sample::new(each.collect())
    };
    Ok((sample(&recorded.0), sample(&recorded.1)))
}

fn events_of(step: &Step) -> [RouterEvent; 2] {
    [
        dynamo::stored(step.endpoint, &step.path, step.path.len() - step.new),
        dynamo::removed(step.endpoint, &step.old, step.forgotten.clone()),
    ]
}

/// Stores that leave a run of 8192 blocks at 64 places; of each place the fastest of several trials, so that what
/// other processes do does not count, and of these the slowest.
fn worst_store(settings: &Settings) -> Result<Vec<Figure>> {
    const HOLDERS: u32 = 512;
    const PLACES: usize = 64;
    let run = path(1, 8192);
    let diverging = |place: usize| {
        let mut path = run[..1 + place * 5 % PLACES * 8190 / PLACES].to_vec();
        extend(&mut path, 1_000 + place as u64, 64);
        path
    };
    let paths: Vec<_> = (0..PLACES).map(diverging).collect();
    let mut fastest = [f64::INFINITY; PLACES];
    for _ in 0..if settings.quick { 2 } else { 15 } {
        let mut index = PrefixIndex::new(usize::MAX);
        for endpoint in 0..HOLDERS {
            index.set_capacity(endpoint, 1 << 20);
            index.insert(endpoint, &run);
        }
        for ((place, path), fastest) in paths.iter().enumerate().zip(&mut fastest) {
            let start = Instant::now();
            index.insert(place as u32, path);
            *fastest = fastest.min(start.elapsed().as_nanos() as f64);
        }
    }
    let worst = fastest.into_iter().fold(0.0, f64::max);

    let theirs = Arc::new(Mutex::new(Duration::ZERO));
    let recorded = Arc::clone(&theirs);
    let fill = (0..HOLDERS).map(|endpoint| dynamo::stored(endpoint, &run, 0)).collect();
    let event = vec![dynamo::stored(0, &paths[PLACES / 2], 0)];
    let mut start = Instant::now();
    dynamo::apply_rounds(&ConcurrentRadixTreeCompressed::new(), vec![fill, event], move |_| {
        *recorded.lock().unwrap_or_else(PoisonError::into_inner) = start.elapsed();
        start = Instant::now();
    })?;
    let theirs = theirs.lock().unwrap_or_else(PoisonError::into_inner).as_nanos() as f64;
    Ok(vec![Figure {
        name: "update/worst-store".to_owned(),
        value: worst / 1e3,
        unit: "µs",
        goal: Goal::AtMost(50.0),
        spread: 0.0,
        detail: format!("dynamo's radix tree {}", time_text(theirs)),
    }])
}

/// Inserts of one run each, from an empty index to one of millions; of each the fastest of several trials, and of these
/// the slowest.
fn worst_insert_while_growing(settings: &Settings) -> Result<Vec<Figure>> {
    const BLOCKS: usize = 4;
    const ENDPOINTS: u32 = 8;
    let runs = if settings.quick { 100_000 } else { 3_000_000 };
    let mut fastest = vec![Duration::MAX; runs];
    for _ in 0..3 {
        let mut index = PrefixIndex::new(usize::MAX);
        (0..ENDPOINTS).for_each(|endpoint| index.set_capacity(endpoint, usize::MAX));
        for (number, fastest) in (0..).zip(&mut fastest) {
            let path = path(number, BLOCKS);
            let start = Instant::now();
            index.insert(number as u32 % ENDPOINTS, &path);
            *fastest = start.elapsed().min(*fastest);
        }
    }
    let mean = fastest.iter().map(Duration::as_secs_f64).sum::<f64>() / runs as f64;
    let worst = fastest.into_iter().max().unwrap_or_default();
    Ok(vec![Figure {
        name: "update/worst-insert-while-growing".to_owned(),
        value: worst.as_secs_f64() * 1e6,
        unit: "µs",
        goal: Goal::AtMost(500.0),
        spread: 0.0,
        detail: format!("{:.1} M runs, on average {}", runs as f64 / 1e6, time_text(mean * 1e9)),
    }])
}
