//! The prefix index against its oracle, under generated sequences of operations.

#[path = "../src/prefix_index/naive.rs"]
mod naive;

use std::ops::Range;

use naive::NaivePrefixIndex;
use p3sched::prefix_index::{PrefixIndex, PrefixIndexStats};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Operation {
    /// Several endpoints use the same path one after the other.
    Insert {
        endpoints: Range<u32>,
        path: Vec<u64>,
    },
    Find {
        path: Vec<u64>,
    },
    SetCapacity {
        endpoint: u32,
        blocks: usize,
    },
    Clear {
        endpoint: u32,
    },
}

/// A path through a random tree: few symbols and long repetitions, so that forks, extensions and cut-offs are frequent.
fn path() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec((0..3_u64, 1..9_usize), 0..6).prop_map(|stretches| {
        let symbols = stretches.into_iter().flat_map(|(symbol, times)| std::iter::repeat_n(symbol, times));
        chained(symbols)
    })
}

fn chained(symbols: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let mut hash = 0x1234_5678_u64;
    let chain = symbols.into_iter().map(|symbol| {
        hash = (hash.rotate_left(23) ^ (symbol + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash
    });
    chain.collect()
}

fn operation(endpoints: u32) -> impl Strategy<Value = Operation> {
    let several =
        (0..endpoints, 1..=endpoints).prop_map(move |(start, count)| start..endpoints.min(start + count));
    prop_oneof![
        6 => (0..endpoints, path()).prop_map(|(start, path)| Operation::Insert { endpoints: start..start + 1, path }),
        2 => (several, path()).prop_map(|(endpoints, path)| Operation::Insert { endpoints, path }),
        2 => path().prop_map(|path| Operation::Find { path }),
        1 => (0..endpoints, 0..60_usize).prop_map(|(endpoint, blocks)| Operation::SetCapacity { endpoint, blocks }),
        1 => (0..endpoints).prop_map(|endpoint| Operation::Clear { endpoint }),
    ]
}

struct Pair {
    index: PrefixIndex,
    oracle: NaivePrefixIndex,
    endpoints: u32,
}

impl Pair {
    fn new(endpoints: u32, capacity: usize) -> Self {
        let mut pair =
            Self { index: PrefixIndex::new(usize::MAX), oracle: NaivePrefixIndex::default(), endpoints };
        // The last endpoints stay unknown until an operation names them.
        for endpoint in 0..endpoints - endpoints / 4 {
            pair.index.set_capacity(endpoint, capacity);
            pair.oracle.set_capacity(endpoint, capacity);
        }
        pair
    }

    fn apply(&mut self, operation: &Operation) -> Result<(), TestCaseError> {
        match operation {
            Operation::Insert { endpoints, path } => {
                for endpoint in endpoints.clone() {
                    self.index.insert(endpoint, path);
                    self.oracle.insert(endpoint, path);
                }
                self.compare_find(path)?;
            }
            Operation::Find { path } => self.compare_find(path)?,
            &Operation::SetCapacity { endpoint, blocks } => {
                self.index.set_capacity(endpoint, blocks);
                self.oracle.set_capacity(endpoint, blocks);
            }
            &Operation::Clear { endpoint } => {
                self.index.clear(endpoint);
                self.oracle.clear(endpoint);
            }
        }
        self.index.validate().map_err(TestCaseError::fail)?;
        for endpoint in 0..self.endpoints {
            prop_assert_eq!(self.index.block_count(endpoint), self.oracle.block_count(endpoint));
        }
        prop_assert_eq!(self.index.stats().unique_blocks, self.oracle.unique_blocks());
        Ok(())
    }

    fn compare_find(&self, path: &[u64]) -> Result<(), TestCaseError> {
        // Fewer slots than endpoints, and more, are both allowed.
        let endpoints = self.endpoints as usize;
        for slots in [endpoints / 2, endpoints - 1, endpoints, endpoints + 1] {
            let (mut found, mut expected) = (vec![u32::MAX; slots], vec![u32::MAX; slots]);
            self.index.find(path, &mut found);
            self.oracle.find(path, &mut expected);
            prop_assert_eq!(found, expected);
        }
        Ok(())
    }
}

fn agrees(
    endpoints: u32,
    capacity: usize,
    operations: &[Operation],
    probes: &[Vec<u64>],
) -> Result<(), TestCaseError> {
    let mut pair = Pair::new(endpoints, capacity);
    for operation in operations {
        pair.apply(operation)?;
    }
    for probe in probes {
        pair.compare_find(probe)?;
    }
    for endpoint in 0..endpoints {
        pair.apply(&Operation::Clear { endpoint })?;
    }
    prop_assert_eq!(
        pair.index.stats(),
        PrefixIndexStats { bytes: pair.index.stats().bytes, ..Default::default() }
    );
    Ok(())
}

fn scenario(endpoints: u32, steps: usize) -> impl Strategy<Value = (Vec<Operation>, Vec<Vec<u64>>)> {
    (prop::collection::vec(operation(endpoints), 1..steps), prop::collection::vec(path(), 10))
}

proptest! {
    #[test]
    fn agrees_with_the_oracle_for_few_endpoints((operations, probes) in scenario(3, 80), capacity in 0..80_usize) {
        agrees(3, capacity, &operations, &probes)?;
    }

    #[test]
    fn agrees_with_the_oracle_for_some_endpoints((operations, probes) in scenario(20, 60), capacity in 10..80_usize) {
        agrees(20, capacity, &operations, &probes)?;
    }

    #[test]
    fn agrees_with_the_oracle_for_many_endpoints((operations, probes) in scenario(90, 30), capacity in 10..100_usize) {
        agrees(90, capacity, &operations, &probes)?;
    }

    #[test]
    fn the_bound_in_bytes_holds_and_leaves_a_correct_subset(
        operations in prop::collection::vec(operation(12), 1..80),
        probes in prop::collection::vec(path(), 10),
        max_bytes in 0..8_000_usize,
    ) {
        let mut index = PrefixIndex::new(max_bytes);
        let mut oracle = NaivePrefixIndex::default();
        for endpoint in 0..12 {
            index.set_capacity(endpoint, 100);
            oracle.set_capacity(endpoint, usize::MAX);
        }
        let empty = index.stats().bytes;
        for operation in &operations {
            match operation {
                Operation::Insert { endpoints, path } => {
                    for endpoint in endpoints.clone() {
                        index.insert(endpoint, path);
                        oracle.insert(endpoint, path);
                    }
                }
                Operation::Clear { endpoint } => {
                    index.clear(*endpoint);
                    oracle.clear(*endpoint);
                }
                Operation::Find { .. } | Operation::SetCapacity { .. } => {}
            }
            index.validate().map_err(TestCaseError::fail)?;
            let bytes = index.stats().bytes;
            prop_assert!(bytes <= max_bytes.max(empty + REMAINDER), "{} bytes, bound {}", bytes, max_bytes);
            for probe in &probes {
                let (mut found, mut possible) = ([0; 12], [0; 12]);
                index.find(probe, &mut found);
                oracle.find(probe, &mut possible);
                prop_assert!(found.iter().zip(possible).all(|(&found, possible)| found <= possible));
            }
        }
    }

    #[test]
    fn survives_hashes_that_are_not_chained(paths in prop::collection::vec((0..3_u32, prop::collection::vec(0..4_u64, 0..12)), 0..40)) {
        let mut index = PrefixIndex::new(10_000);
        for endpoint in 0..3 {
            index.set_capacity(endpoint, 20);
        }
        for (endpoint, path) in paths {
            index.insert(endpoint, &path);
            let mut matched = [0; 3];
            index.find(&path, &mut matched);
            prop_assert!(matched.iter().all(|&blocks| blocks as usize <= path.len()));
        }
        for endpoint in 0..3 {
            index.clear(endpoint);
        }
        prop_assert_eq!(index.stats().holdings, 0);
    }
}

/// What an emptied index may keep beyond what it had when it was new.
const REMAINDER: usize = 1_024;

fn find(index: &PrefixIndex, path: &[u64], slots: usize) -> Vec<u32> {
    let mut matched = vec![u32::MAX; slots];
    index.find(path, &mut matched);
    matched
}

fn index_with(endpoints: u32, capacity: usize) -> PrefixIndex {
    let mut index = PrefixIndex::new(usize::MAX);
    for endpoint in 0..endpoints {
        index.set_capacity(endpoint, capacity);
    }
    index
}

#[test]
fn an_empty_path_matches_nothing() {
    let mut index = index_with(2, 10);
    index.insert(0, &[]);
    assert_eq!(find(&index, &[], 2), [0, 0]);
    assert_eq!(index.stats().unique_blocks, 0);
}

#[test]
fn a_path_longer_than_the_capacity_keeps_its_head() {
    let mut index = index_with(1, 10);
    index.insert(0, &chained([9; 4]));
    let path = chained([1; 15]);
    index.insert(0, &path);
    assert_eq!(find(&index, &path, 1), [10]);
    assert_eq!(find(&index, &chained([9; 4]), 1), [0]);
}

#[test]
fn eviction_takes_the_least_recent_path_from_its_end() {
    let mut index = index_with(1, 10);
    let (first, second, third) = (chained([1; 5]), chained([2; 5]), chained([3; 3]));
    index.insert(0, &first);
    index.insert(0, &second);
    index.insert(0, &first[..3]);
    index.insert(0, &third);
    // The last two blocks of `first` were not used again, so they go before any block of `second`.
    assert_eq!([find(&index, &first, 1), find(&index, &second, 1), find(&index, &third, 1)], [[3], [4], [3]]);
}

#[test]
fn a_slot_is_clean_after_clear() {
    let mut index = index_with(2, 10);
    let path = chained([1, 2, 3]);
    index.insert(0, &path);
    index.insert(1, &path);
    index.clear(0);
    assert_eq!(find(&index, &path, 2), [0, 3]);
    index.insert(0, &path[..1]);
    assert_eq!(find(&index, &path, 2), [1, 3]);
}

#[test]
fn one_path_is_stored_once_for_all_its_holders() {
    let mut index = index_with(64, 1_000);
    let path = chained(0..128);
    for endpoint in 0..64 {
        index.insert(endpoint, &path);
    }
    let stats = index.stats();
    assert_eq!((stats.unique_blocks, stats.runs, stats.holdings, stats.segments), (128, 1, 64, 64));
    assert!(find(&index, &path, 64).iter().all(|&matched| matched == 128));
}

#[test]
fn a_run_that_everyone_holds_is_cut_to_what_each_holds() {
    let mut index = index_with(100, 1_000);
    let path = chained(0..50);
    for endpoint in 0..100 {
        index.insert(endpoint, &path);
    }
    for (slots, common) in [(100, 50), (100, 20), (60, 50), (120, 50)] {
        let mut expected = vec![0; slots];
        expected.iter_mut().take(100).for_each(|matched| *matched = common);
        assert_eq!(find(&index, &path[..common as usize], slots), expected);
    }
    // One without it, and one with less than the others, who then catches up.
    index.clear(3);
    let found = find(&index, &path, 100);
    assert_eq!((found[2], found[3], found[4]), (50, 0, 50));
    index.insert(3, &path[..10]);
    let found = find(&index, &path, 100);
    assert_eq!((found[2], found[3], found[4]), (50, 10, 50));
    assert!(find(&index, &path[..10], 99).iter().all(|&matched| matched == 10));
    index.insert(3, &path);
    assert!(find(&index, &path, 99).iter().all(|&matched| matched == 50));
    index.validate().unwrap();
}

#[test]
fn a_conversation_that_grows_by_one_block_stays_one_run() {
    let mut index = index_with(1, 10_000);
    let path = chained(0..1_000);
    for length in 1..=path.len() {
        index.insert(0, &path[..length]);
    }
    let stats = index.stats();
    assert_eq!((stats.unique_blocks, stats.runs, stats.segments), (1_000, 1, 1));
    assert!(stats.bytes < 12_000, "{}", stats.bytes);
}

#[test]
fn memory_is_given_back() {
    let mut index = index_with(4, 1_000_000);
    let empty = index.stats().bytes;
    let chain = |number: u64| chained([number + 10; 128]);
    for number in 0..4_000 {
        index.insert((number % 4) as u32, &chain(number));
    }
    let full = index.stats();
    assert_eq!(full.unique_blocks, 4_000 * 128);
    assert!(full.bytes < full.unique_blocks * 12, "{} bytes", full.bytes);
    for round in 1..4 {
        for endpoint in 0..4 {
            index.set_capacity(endpoint, 1_000 * 128);
        }
        for number in 0..4_000 {
            index.insert((number % 4) as u32, &chain(round * 4_000 + number));
        }
        let bytes = index.stats().bytes;
        assert!(
            bytes < full.bytes + full.bytes / 10,
            "round {round}: {bytes} bytes, at first {}",
            full.bytes
        );
    }
    index.validate().unwrap();
    for endpoint in 0..4 {
        index.clear(endpoint);
    }
    assert!(index.stats().bytes <= empty + REMAINDER, "{} bytes", index.stats().bytes);
}
