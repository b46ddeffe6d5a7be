//! Stores and removals at a steady state, and the worst single store.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use dynamo_kv_router::ConcurrentRadixTreeCompressed;
use dynamo_kv_router::RouterEvent;
use p3sched::prefix_index::PrefixIndex;

use super::{Case, speed_up};
use crate::Settings;
use crate::measure::Sample;
use crate::peers::dynamo;
use crate::report::{Figure, Goal, time_text};
use crate::workload::{extend, path};

const CHAIN: usize = 128;

/// Each step stores something on an endpoint that is full, so that it forgets as much.
struct Step {
    endpoint: u32,
    /// The whole path that the endpoint has used.
    path: Vec<u64>,
    /// Blocks at the end of the path that are new to the endpoint.
    new: usize,
    /// What goes for it.
    forgotten: Vec<u64>,
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
        Case::new("update/unique-chains", |settings| {
            update(settings, "update/unique-chains", 2.0, unique_chains(settings))
        }),
        Case::new("update/shared-chains", |settings| {
            update(settings, "update/shared-chains", 5.0, shared_chains(settings))
        }),
        Case::new("update/decode", |settings| update(settings, "update/decode", 3.0, decode(settings))),
        Case::new("update/worst-store", worst_store),
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
        forgotten: path(number - held, CHAIN),
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
        forgotten: crate::workload::path(number - chains_each, CHAIN),
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
                let oldest = old(endpoint, gone / CHAIN)[CHAIN - 1 - gone % CHAIN];
                steps.push(Step {
                    endpoint,
                    path: growing(endpoint, sequence, round + 1),
                    new: 1,
                    forgotten: vec![oldest],
                });
            }
        }
        steps
    };
    let capacity = (old_chains + sequences) * CHAIN;
    Workload { endpoints, capacity, held, rounds: (0..rounds).map(round).collect() }
}

fn update(settings: &Settings, name: &str, goal: f64, workload: Workload) -> Result<Vec<Figure>> {
    let mut index = PrefixIndex::new(usize::MAX);
    for endpoint in 0..workload.endpoints {
        index.set_capacity(endpoint, workload.capacity);
    }
    for (endpoint, path) in &workload.held {
        index.insert(*endpoint, path);
    }
    let fill = workload.held.iter().map(|(endpoint, path)| dynamo::stored(*endpoint, None, path)).collect();
    let events = workload.rounds.iter().map(|steps| steps.iter().flat_map(events_of).collect());
    let events = std::iter::once(fill).chain(events).collect();
    let blocks: Vec<f64> = (workload.rounds.iter())
        .map(|steps| steps.iter().map(|step| (step.new + step.forgotten.len()) as f64).sum())
        .collect();

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
        if let Some(steps) = workload.rounds.get(flush) {
            let start = Instant::now();
            for step in steps {
                index.insert(step.endpoint, &step.path);
            }
            recorded.0.push(start.elapsed());
        }
        their_start = Instant::now();
    })?;
    let recorded = times.lock().unwrap_or_else(PoisonError::into_inner);
    let sample = |times: &[Duration]| {
        let each = times.iter().zip(&blocks).map(|(time, blocks)| time.as_nanos() as f64 / blocks);
        Sample::new(each.collect())
    };
    let (ours, theirs) = (sample(&recorded.0), sample(&recorded.1));
    let mut figure = speed_up(name, Goal::AtLeast(goal), &ours, "dynamo's radix tree", &theirs);
    figure.detail += " per block stored or removed";
    let _ = settings;
    Ok(vec![figure])
}

fn events_of(step: &Step) -> [RouterEvent; 2] {
    let (known, new) = step.path.split_at(step.path.len() - step.new);
    [
        dynamo::stored(step.endpoint, known.last().copied(), new),
        dynamo::removed(step.endpoint, &step.forgotten),
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
    let fill = (0..HOLDERS).map(|endpoint| dynamo::stored(endpoint, None, &run)).collect();
    let event = vec![dynamo::stored(0, None, &paths[PLACES / 2])];
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
