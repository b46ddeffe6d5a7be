//! The event index against its oracle, under every order of operations.

use proptest::prelude::*;

use super::naive::NaiveEventIndex;
use super::{EventIndex, StoredBlocks};

const LANES: u32 = 5;

/// A chained hash: what `mix` does is not needed here, only that equal hashes mean equal paths.
fn chain(parent: u64, token: u64) -> u64 {
    (parent ^ (token + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) ^ token
}

fn path(tokens: &[u64]) -> Vec<u64> {
    tokens
        .iter()
        .scan(7, |hash, &token| {
            *hash = chain(*hash, token);
            Some(*hash)
        })
        .collect()
}

/// What a lane's engine calls a block. Lanes 0 and 1 agree, lane 2 has another seed, lane 3 changes names, and lane 4 calls
/// its blocks what lane 0 calls others.
fn name(lane: u32, version: u64, hash: u64) -> u64 {
    match lane {
        0 | 1 => hash,
        2 => hash.rotate_left(5),
        3 => hash ^ version,
        _ => {
            let zeros = path(&[0; 32]);
            let length = zeros.iter().position(|&zero| zero == hash);
            length.map_or(hash, |length| zeros[length ^ 1])
        }
    }
}

fn stride(lane: u32) -> u32 {
    if lane == 1 || lane == 3 { 2 } else { 1 }
}

#[derive(Clone, Debug)]
enum Operation {
    /// Stores the engine blocks of a path from the given one on.
    Store {
        lane: u32,
        tokens: Vec<u64>,
        from: usize,
        version: u64,
    },
    Remove {
        lane: u32,
        tokens: Vec<u64>,
        version: u64,
    },
    /// Removes the last blocks of a path by one event.
    RemoveAll {
        lane: u32,
        tokens: Vec<u64>,
        from: usize,
        version: u64,
        is_reversed: bool,
    },
    Clear {
        lane: u32,
    },
}

/// Few different tokens, so that paths share prefixes and diverge everywhere.
fn tokens() -> impl Strategy<Value = Vec<u64>> {
    let alike = (1..30_usize, prop::collection::vec(0..2_u64, 0..4))
        .prop_map(|(length, tail)| std::iter::repeat_n(0, length).chain(tail).collect());
    prop_oneof![3 => alike, 1 => prop::collection::vec(0..3_u64, 1..12)]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        8 => (0..LANES, tokens(), 0..10_usize, 0..3_u64)
            .prop_map(|(lane, tokens, from, version)| Operation::Store { lane, tokens, from, version }),
        5 => (0..LANES, tokens(), 0..3_u64)
            .prop_map(|(lane, tokens, version)| Operation::Remove { lane, tokens, version }),
        3 => (0..LANES, tokens(), 0..10_usize, 0..3_u64, any::<bool>()).prop_map(
            |(lane, tokens, from, version, is_reversed)| {
                Operation::RemoveAll { lane, tokens, from, version, is_reversed }
            }
        ),
        1 => (0..LANES).prop_map(|lane| Operation::Clear { lane }),
    ]
}

fn names(lane: u32, version: u64, hashes: &[u64]) -> Vec<u64> {
    let stride = stride(lane) as usize;
    hashes.chunks_exact(stride).filter_map(<[u64]>::last).map(|&last| name(lane, version, last)).collect()
}

fn apply(index: &mut EventIndex, oracle: &mut NaiveEventIndex, operation: &Operation) {
    match operation {
        Operation::Store { lane, tokens, from, version } => {
            let (lane, version, stride) = (*lane, *version, stride(*lane) as usize);
            let hashes = path(tokens);
            let whole = hashes.len() / stride;
            let from = *from % (whole + 1);
            let names = names(lane, version, &hashes);
            let (parent, names) = (from.checked_sub(1).map(|at| names[at]), &names[from..]);
            let hashes = &hashes[from * stride..whole * stride];
            let expected = oracle.store(lane, parent, hashes, names);
            let position = parent.map(|parent| index.position(lane, parent));
            assert_eq!(position != Some(None), expected, "parent of {operation:?}");
            if expected {
                let stride = stride as u32;
                index.store(lane, &StoredBlocks { parent: position.flatten(), hashes, names, stride });
            }
        }
        Operation::Remove { lane, tokens, version } => {
            let hashes = path(tokens);
            if let Some(&name) = names(*lane, *version, &hashes).last() {
                assert_eq!(index.remove(*lane, name), oracle.remove(*lane, name), "{operation:?}");
            }
        }
        Operation::RemoveAll { lane, tokens, from, version, is_reversed } => {
            let names = names(*lane, *version, &path(tokens));
            let mut names = names[*from % (names.len() + 1)..].to_vec();
            if *is_reversed {
                names.reverse();
            }
            index.remove_all(*lane, names.iter().copied());
            for name in names {
                oracle.remove(*lane, name);
            }
        }
        Operation::Clear { lane } => {
            index.clear(*lane);
            oracle.clear(*lane);
        }
    }
}

fn compare(index: &EventIndex, oracle: &NaiveEventIndex, probes: &[Vec<u64>]) {
    index.validate().unwrap();
    assert_eq!(index.stats().unique_blocks, oracle.unique_blocks());
    let mut matched = [0; LANES as usize];
    for probe in probes {
        let hashes = path(probe);
        index.find(&hashes, &mut matched);
        for lane in 0..LANES {
            assert_eq!(matched[lane as usize], oracle.matched(lane, &hashes), "lane {lane} of {probe:?}");
        }
    }
    for lane in 0..LANES {
        assert_eq!(index.block_count(lane), oracle.block_count(lane), "lane {lane}");
    }
}

fn new_index() -> EventIndex {
    let mut index = EventIndex::new();
    (0..LANES).for_each(|lane| index.add_lane(lane));
    index
}

proptest! {
    #[test]
    fn agrees_with_the_oracle(
        operations in prop::collection::vec(operation(), 1..60),
        probes in prop::collection::vec(tokens(), 4..8),
    ) {
        let (mut index, mut oracle) = (new_index(), NaiveEventIndex::default());
        for operation in &operations {
            apply(&mut index, &mut oracle, operation);
            compare(&index, &oracle, &probes);
        }
        (0..LANES).for_each(|lane| index.clear(lane));
        index.validate().unwrap();
        assert_eq!((index.stats().unique_blocks, index.stats().runs, index.names.heap_bytes() < 4_096), (0, 0, true));
    }

    #[test]
    fn the_bound_in_bytes_holds(operations in prop::collection::vec(operation(), 1..60), bound in 2_000..8_000_usize) {
        let (mut index, mut oracle) = (new_index(), NaiveEventIndex::default());
        for operation in &operations {
            if let Operation::Store { tokens, .. } = operation {
                // Whatever the index has forgotten, it stays consistent and never claims too much.
                let whole = Operation::Store { lane: 0, tokens: tokens.clone(), from: 0, version: 0 };
                apply(&mut index, &mut oracle, &whole);
            }
            index.evict_to(bound);
            index.validate().unwrap();
            prop_assert!(index.bytes() <= bound || index.block_count(0) == 0);
        }
    }
}
