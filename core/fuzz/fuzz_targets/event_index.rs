//! Any order of operations on the event index: it holds what its oracle holds.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use p3sched::prefix_index::{EventIndex, StoredBlocks};

#[path = "../../src/prefix_index/event_index/naive.rs"]
mod naive;

const LANES: u8 = 5;

#[derive(Arbitrary, Debug)]
enum Operation {
    /// Stores the engine blocks of a path from the given one on.
    Store {
        lane: u8,
        path: Path,
        from: u8,
        version: bool,
    },
    Remove {
        lane: u8,
        path: Path,
        version: bool,
    },
    /// Removes the engine blocks of a path from the given one on, by one event.
    RemoveAll {
        lane: u8,
        path: Path,
        from: u8,
        version: bool,
        is_reversed: bool,
    },
    RemoveLane(u8),
}

/// Many zeros and few other tokens, so that paths share prefixes and diverge everywhere.
#[derive(Arbitrary, Debug)]
struct Path {
    zeros: u8,
    tail: Vec<u8>,
}

impl Path {
    fn hashes(&self) -> Vec<u64> {
        let tokens = std::iter::repeat_n(0, usize::from(self.zeros % 32)).chain(self.tail.iter().copied());
        let mut hash = 7_u64;
        tokens
            .map(|token| {
                hash =
                    (hash ^ (u64::from(token % 4) + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
                hash
            })
            .collect()
    }
}

fn stride(lane: u8) -> usize {
    usize::from(lane % 2) + 1
}

/// What the lane's engine calls the blocks: lanes 0 and 1 agree, lane 4 changes its mind.
fn names(lane: u8, version: bool, hashes: &[u64]) -> Vec<u64> {
    let name = |hash: u64| match lane {
        4 => hash ^ u64::from(version),
        _ => hash.rotate_left(u32::from(lane / 2)),
    };
    hashes.chunks_exact(stride(lane)).map(|block| name(block[block.len() - 1])).collect()
}

fuzz_target!(|operations: Vec<Operation>| {
    let mut index = EventIndex::new();
    (0..LANES).for_each(|lane| index.add_lane(lane.into()));
    let mut oracle = naive::NaiveEventIndex::default();
    for operation in &operations {
        apply(&mut index, &mut oracle, operation);
        index.validate().unwrap();
        assert_eq!(index.stats().unique_blocks, oracle.unique_blocks());
        let hashes = match operation {
            Operation::Store { path, .. }
            | Operation::Remove { path, .. }
            | Operation::RemoveAll { path, .. } => path.hashes(),
            Operation::RemoveLane(_) => vec![],
        };
        let mut matched = [0; LANES as usize];
        index.find(&hashes, &mut matched);
        for lane in 0..u32::from(LANES) {
            assert_eq!(matched[lane as usize], oracle.matched(lane, &hashes), "lane {lane}");
            assert_eq!(index.block_count(lane), oracle.block_count(lane), "lane {lane}");
        }
    }
});

fn apply(index: &mut EventIndex, oracle: &mut naive::NaiveEventIndex, operation: &Operation) {
    match operation {
        Operation::Store { lane, path, from, version } => {
            let lane = lane % LANES;
            let (stride, hashes) = (stride(lane), path.hashes());
            let names = names(lane, *version, &hashes);
            let from = usize::from(*from) % (names.len() + 1);
            let hashes = &hashes[from * stride..names.len() * stride];
            let (parent, names) = (from.checked_sub(1).map(|at| names[at]), &names[from..]);
            let position = parent.map(|parent| index.position(lane.into(), parent));
            let is_held = oracle.store(lane.into(), parent, hashes, names);
            assert_eq!(position != Some(None), is_held, "parent");
            if is_held {
                let blocks =
                    StoredBlocks { parent: position.flatten(), hashes, names, stride: stride as u32 };
                index.store(lane.into(), &blocks);
            }
        }
        Operation::Remove { lane, path, version } => {
            let lane = lane % LANES;
            if let Some(&name) = names(lane, *version, &path.hashes()).last() {
                assert_eq!(index.remove(lane.into(), name), oracle.remove(lane.into(), name));
            }
        }
        Operation::RemoveAll { lane, path, from, version, is_reversed } => {
            let lane = lane % LANES;
            let names = names(lane, *version, &path.hashes());
            let mut names = names[usize::from(*from) % (names.len() + 1)..].to_vec();
            if *is_reversed {
                names.reverse();
            }
            index.remove_all(lane.into(), names.iter().copied());
            for name in names {
                oracle.remove(lane.into(), name);
            }
        }
        Operation::RemoveLane(lane) => {
            index.clear((lane % LANES).into());
            oracle.clear((lane % LANES).into());
        }
    }
}
