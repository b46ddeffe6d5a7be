//! Look-ups at random in indexes far larger than the caches.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use dynamo_kv_router::{ConcurrentRadixTreeCompressed, SyncIndexer};
use p3sched::prefix_index::PrefixIndex;

use super::{Case, Outcome, speed_up};
use crate::measure::take_turns;
use crate::peers::dynamo;
use crate::report::{Figure, Goal};
use crate::workload::{extend, path, split_mix};
use crate::{Settings, machine};

const ENDPOINTS: usize = 8;
/// Queries made at a time: few enough to stay in the second-level cache until they are asked.
const BATCH: u32 = 32;

static TURN: AtomicU64 = AtomicU64::new(0);

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for blocks in [32, 128] {
        for holders in [1, 8] {
            for (hit, common) in [("full", blocks), ("half", blocks / 2)] {
                let name = format!("look-up/cold/{hit}/{blocks}-blocks/{holders}-of-8-hold");
                cases.push(Case {
                    name: name.clone(),
                    run: Box::new(move |settings| {
                        // A tree node of the peer, its edge and its set of holders, as measured.
                        let needed = chains(settings) as f64 * (blocks as f64 * 30.0 + 1_000.0);
                        let available = machine::available_bytes()?;
                        if needed > available {
                            let gigabytes = |bytes: f64| format!("{:.0} GB", bytes / 1e9);
                            let reason =
                                format!("{} of memory, of {}", gigabytes(needed), gigabytes(available));
                            return Ok(Outcome::Skipped(reason));
                        }
                        Ok(Outcome::Measured(vec![look_up(settings, name, blocks, holders, common)?]))
                    }),
                });
            }
        }
    }
    cases
}

fn chains(settings: &Settings) -> u64 {
    if settings.quick { 1 << 14 } else { 1 << 20 }
}

fn look_up(settings: &Settings, name: String, blocks: usize, holders: u64, common: usize) -> Result<Figure> {
    let chains = chains(settings);
    let mut ours = PrefixIndex::new(usize::MAX);
    for endpoint in 0..ENDPOINTS {
        ours.set_capacity(endpoint as u32, usize::MAX);
    }
    let endpoints = |number| (0..holders).map(move |holder| ((number + holder) % ENDPOINTS as u64) as u32);
    // One index after the other, so that the memory of each lies together, as it does where there is only one.
    for number in 0..chains {
        let path = path(number, blocks);
        endpoints(number).for_each(|endpoint| ours.insert(endpoint, &path));
    }
    let radix = ConcurrentRadixTreeCompressed::new();
    for first in (0..chains).step_by(1 << 10) {
        let mut events = Vec::new();
        for number in first..first + (1 << 10) {
            let path = path(number, blocks);
            events.extend(endpoints(number).map(|endpoint| dynamo::stored(endpoint, &path, 0)));
        }
        dynamo::apply(&radix, events)?;
    }

    let mut matched = [0; ENDPOINTS];
    let mut find_ours = |count| {
        let find = |path: &Vec<u64>| {
            ours.find(path, &mut matched);
            matched.iter().sum::<u32>() as usize
        };
        time_queries(count, chains, blocks, common, |path| path, find)
    };
    let mut find_radix = |count| {
        let find = |query: &Vec<_>| radix.find_matches(query, false).scores.values().sum::<u32>() as usize;
        time_queries(count, chains, blocks, common, |path| dynamo::query(&path), find)
    };
    let [ours, theirs] = take_turns(settings, [&mut find_ours, &mut find_radix]);
    Ok(speed_up(name, Goal::AtLeast(3.0), &ours, "dynamo's radix tree", &theirs))
}

/// The time of the look-ups alone, one after the other; their queries are made before each batch, of random chains each time.
fn time_queries<Q>(
    count: u32,
    chains: u64,
    blocks: usize,
    common: usize,
    query: impl Fn(Vec<u64>) -> Q,
    mut find: impl FnMut(&Q) -> usize,
) -> Duration {
    // Every turn asks for other chains: those of the last one may still be in a cache.
    let mut state = split_mix(TURN.fetch_add(1, Ordering::Relaxed));
    let mut time = Duration::ZERO;
    let mut left = count;
    while left > 0 {
        let batch = left.min(BATCH);
        left -= batch;
        let queries: Vec<Q> = (0..batch)
            .map(|_| {
                state = split_mix(state);
                let mut path = path(state % chains, common);
                extend(&mut path, state | 1 << 40, blocks - common);
                query(path)
            })
            .collect();
        let start = Instant::now();
        let mut at = 0;
        while let Some(query) = queries.get(at) {
            // Each look-up waits for the answer of the one before, as requests do not come together.
            at += 1 + (find(black_box(query)) & black_box(0));
        }
        time += start.elapsed();
    }
    time
}
