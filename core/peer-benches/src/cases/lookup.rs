//! Look-ups of one path in a hot cache, every shape of tree beside the best index of the peers.

use std::hint::black_box;

use anyhow::{Result, ensure};
use dynamo_kv_router::{ConcurrentRadixTreeCompressed, PositionalIndexer, SyncIndexer};
use p3sched::prefix_index::PrefixIndex;

use super::{Case, speed_up};
use crate::Settings;
use crate::measure::{Work, repeat, take_turns};
use crate::peers::{dynamo, smg::Smg};
use crate::report::{Figure, Goal, time_text};
use crate::workload::{extend, path};

const ENDPOINTS: [u32; 4] = [8, 64, 512, 1024];
const DEPTHS: [usize; 2] = [256, 8192];
/// Blocks by which an endpoint's path goes on after a fork.
const BRANCH: usize = 64;
/// What the peer's documentation proposes.
const JUMP: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    /// Every endpoint holds the whole path.
    Full,
    /// Every endpoint holds its first half and then goes on elsewhere.
    Half,
    /// Nobody holds any of it.
    Miss,
    /// Every endpoint holds another part of it and then goes on elsewhere; stored in no particular order.
    Fork,
    /// The same, each endpoint stored after those that fork earlier.
    ForkEverDeeper,
    /// Every endpoint holds another part of one run.
    CutOff,
}

pub fn cases() -> Vec<Case> {
    let shapes = [
        ("full", Shape::Full),
        ("half", Shape::Half),
        ("miss", Shape::Miss),
        ("fork", Shape::Fork),
        ("fork-ever-deeper", Shape::ForkEverDeeper),
        ("cut-off", Shape::CutOff),
    ];
    let mut cases = Vec::new();
    for (shape_name, shape) in shapes {
        for endpoints in ENDPOINTS {
            for depth in DEPTHS {
                let name = format!("look-up/{shape_name}/{endpoints}-endpoints/depth-{depth}");
                cases.push(Case::new(name.clone(), move |settings| {
                    look_up(settings, &name, shape, endpoints, depth)
                }));
            }
        }
    }
    cases
}

fn look_up(
    settings: &Settings,
    name: &str,
    shape: Shape,
    endpoints: u32,
    depth: usize,
) -> Result<Vec<Figure>> {
    let held = held_paths(shape, endpoints, depth);
    let sought = path(1, depth);
    let query = dynamo::query(&sought);
    let ours = our_index(endpoints, &held);
    let radix = ConcurrentRadixTreeCompressed::new();
    fill(&radix, &held)?;
    let positional = PositionalIndexer::new(JUMP);
    fill(&positional, &held)?;
    let mut smg = Smg::new(endpoints)?;
    for (endpoint, path) in &held {
        smg.store(*endpoint, path)?;
    }

    let mut matched = vec![0; endpoints as usize];
    ours.find(&sought, &mut matched);
    let theirs = dynamo::depths(&radix.find_matches(&query, false), matched.len());
    ensure!(matched == theirs, "the radix tree finds other depths");
    // It reports wrong depths where sets of holders of the same size follow each other; then it is no rival.
    let theirs = dynamo::depths(&positional.find_matches(&query, false), matched.len());
    let positional_is_right = matched == theirs;
    let mut smg_matched = matched.clone();
    smg.find(&sought, &mut smg_matched);
    ensure!(matched == smg_matched, "smg finds other depths");

    let mut find_ours = repeat(|| {
        black_box(&ours).find(black_box(&sought), &mut matched);
        black_box(&matched);
    });
    let mut find_radix = repeat(|| drop(black_box(black_box(&radix).find_matches(black_box(&query), false))));
    let mut find_positional =
        repeat(|| drop(black_box(black_box(&positional).find_matches(black_box(&query), false))));
    let mut find_smg = repeat(|| {
        black_box(&smg).find(black_box(&sought), &mut smg_matched);
        black_box(&smg_matched);
    });
    let works: [Work<'_>; 4] = [&mut find_ours, &mut find_radix, &mut find_positional, &mut find_smg];
    let [ours, radix, positional, smg] = take_turns(settings, works);
    let (best, best_name) = if positional_is_right && positional.median() < radix.median() {
        (&positional, "dynamo's positional index")
    } else {
        (&radix, "dynamo's radix tree")
    };
    let figure = match goal(shape, endpoints, depth) {
        goal @ Goal::AtMost(_) => Figure {
            name: name.to_owned(),
            value: ours.median(),
            unit: "ns",
            goal,
            spread: ours.spread(),
            detail: format!("{best_name} {}", time_text(best.median())),
        },
        goal => speed_up(name, goal, &ours, best_name, best),
    };
    Ok(vec![figure, speed_up(format!("{name}/smg"), Goal::None, &ours, "smg", &smg)])
}

fn goal(shape: Shape, endpoints: u32, depth: usize) -> Goal {
    match shape {
        Shape::Miss => Goal::AtMost(100.0),
        Shape::Full | Shape::Half if depth == 8192 || endpoints == 1024 => Goal::AtLeast(20.0),
        Shape::Full | Shape::Half | Shape::Fork | Shape::ForkEverDeeper | Shape::CutOff => Goal::AtLeast(5.0),
    }
}

/// What each endpoint stores, in the order in which it does.
fn held_paths(shape: Shape, endpoints: u32, depth: usize) -> Vec<(u32, Vec<u64>)> {
    let sought = path(1, depth);
    let branch = |length: usize, endpoint: u32, blocks: usize| {
        let mut path = sought[..length].to_vec();
        extend(&mut path, 1_000 + u64::from(endpoint), blocks);
        (endpoint, path)
    };
    // 389 has no factor in common with any number of endpoints, so the places are all different.
    let place = |endpoint: u32| 1 + endpoint as usize * (depth - 1) / endpoints as usize;
    let shuffled = |endpoint: u32| place(endpoint * 389 % endpoints);
    let each = 0..endpoints;
    match shape {
        Shape::Full => each.map(|endpoint| branch(depth, endpoint, 0)).collect(),
        Shape::Half => each.map(|endpoint| branch(depth / 2, endpoint, depth / 2)).collect(),
        Shape::Miss => each.map(|endpoint| branch(0, endpoint, depth)).collect(),
        Shape::Fork => each.map(|endpoint| branch(shuffled(endpoint), endpoint, BRANCH)).collect(),
        Shape::ForkEverDeeper => each.map(|endpoint| branch(place(endpoint), endpoint, BRANCH)).collect(),
        Shape::CutOff => {
            let whole = std::iter::once(branch(depth, 0, 0));
            whole.chain((1..endpoints).map(|endpoint| branch(shuffled(endpoint), endpoint, 0))).collect()
        }
    }
}

fn our_index(endpoints: u32, held: &[(u32, Vec<u64>)]) -> PrefixIndex {
    let mut index = PrefixIndex::new(usize::MAX);
    for endpoint in 0..endpoints {
        index.set_capacity(endpoint, 1 << 20);
    }
    for (endpoint, path) in held {
        index.insert(*endpoint, path);
    }
    index
}

/// Shortest paths first: the trees are the same in any order, and so the peer need not move the holders of long edges.
fn fill(index: &impl SyncIndexer, held: &[(u32, Vec<u64>)]) -> Result<()> {
    let mut held: Vec<_> = held.iter().collect();
    held.sort_by_key(|(_, path)| path.len());
    held.chunks(16).try_for_each(|some| {
        dynamo::apply(index, some.iter().map(|(endpoint, path)| dynamo::stored(*endpoint, path, 0)))
    })
}
