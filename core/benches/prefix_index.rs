//! Prefix index: look-ups by endpoints, depth and shape of the tree; inserts and forgetting at a steady state.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use p3sched::prefix_index::PrefixIndex;

const ENDPOINTS: [u32; 4] = [8, 64, 512, 1024];
const DEPTHS: [usize; 2] = [256, 8192];
const CHAIN: usize = 128;

/// The chain numbered `chain`: hashes as evenly spread as the real ones.
fn chain(chain: u64, blocks: usize) -> Vec<u64> {
    extended(chain.wrapping_mul(0xd6e8_feb8_6659_fd93), blocks)
}

/// The `blocks` chained hashes that follow `hash`.
fn extended(mut hash: u64, blocks: usize) -> Vec<u64> {
    let next = |_| {
        hash = (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9).wrapping_add(0x9e37_79b9);
        hash
    };
    (0..blocks).map(next).collect()
}

fn empty_index(endpoints: u32, capacity: usize) -> PrefixIndex {
    let mut index = PrefixIndex::new(usize::MAX);
    for endpoint in 0..endpoints {
        index.set_capacity(endpoint, capacity);
    }
    index
}

/// Where the endpoint's share of a path of `depth` blocks ends, evenly spread and in no particular order.
fn place(endpoint: u32, endpoints: u32, depth: usize) -> usize {
    let shuffled = (endpoint as usize * 389) % endpoints as usize;
    1 + shuffled * (depth - 1) / endpoints as usize
}

/// What the index holds when a look-up is timed.
enum Shape {
    /// Every endpoint holds the whole path.
    Full,
    /// Every endpoint holds its first half.
    Half,
    /// Nobody holds any of it.
    Miss,
    /// Every endpoint holds a part, and then goes on elsewhere.
    Fork { ascending: bool },
    /// Every endpoint holds a part of one run.
    CutOff,
}

fn index_of(shape: &Shape, endpoints: u32, path: &[u64]) -> PrefixIndex {
    let mut index = empty_index(endpoints, 1 << 20);
    if let Shape::CutOff = shape {
        // One endpoint holds all of it, so the others' shares are of one run.
        index.insert(0, path);
    }
    for endpoint in 0..endpoints {
        let at = place(endpoint, endpoints, path.len());
        match shape {
            Shape::Full => index.insert(endpoint, path),
            Shape::Half => {
                let (head, _) = path.split_at(path.len() / 2);
                let own = extended(u64::from(endpoint), path.len() / 2);
                index.insert(endpoint, &[head, &own].concat());
            }
            Shape::Miss => index.insert(endpoint, &chain(u64::from(endpoint) + 7, path.len())),
            Shape::Fork { ascending } => {
                let at = if *ascending {
                    1 + endpoint as usize * (path.len() - 1) / endpoints as usize
                } else {
                    at
                };
                let (head, _) = path.split_at(at);
                let own = extended(u64::from(endpoint) << 32, 64);
                index.insert(endpoint, &[head, &own].concat());
            }
            Shape::CutOff => index.insert(endpoint, path.split_at(at).0),
        }
    }
    index
}

fn find(criterion: &mut Criterion) {
    let shapes = [
        ("full hit", Shape::Full),
        ("half hit", Shape::Half),
        ("miss", Shape::Miss),
        ("fork", Shape::Fork { ascending: false }),
        ("fork, ever deeper", Shape::Fork { ascending: true }),
        ("cut-off", Shape::CutOff),
    ];
    for (name, shape) in shapes {
        let mut group = criterion.benchmark_group(format!("prefix_index/find/{name}"));
        for endpoints in ENDPOINTS {
            for depth in DEPTHS {
                let path = chain(1, depth);
                let index = index_of(&shape, endpoints, &path);
                let mut matched = vec![0; endpoints as usize];
                group.bench_function(BenchmarkId::new(endpoints.to_string(), depth), |bencher| {
                    bencher.iter(|| {
                        index.find(black_box(&path), &mut matched);
                        black_box(&matched);
                    });
                });
            }
        }
    }
}

/// Random look-ups in an index far larger than the caches.
fn find_cold(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("prefix_index/find/cold");
    for (name, blocks, holders, common) in [
        ("32 blocks, 1 of 8 holds", 32, 1, 32),
        ("32 blocks, 1 of 8 holds half", 32, 1, 16),
        ("32 blocks, all 8 hold", 32, 8, 32),
        ("128 blocks, 1 of 8 holds", 128, 1, 128),
        ("128 blocks, 1 of 8 holds half", 128, 1, 64),
        ("128 blocks, all 8 hold half", 128, 8, 64),
    ] {
        let mut index = empty_index(8, usize::MAX);
        let chains = 1 << 20;
        for number in 0..chains {
            for holder in 0..holders {
                index.insert(((number + holder) % 8) as u32, &chain(number, blocks));
            }
        }
        let mut number = 0_u64;
        let mut matched = [0; 8];
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || {
                    number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
                    let known = chain((number >> 33) % chains, blocks);
                    [known.split_at(common).0, &extended(number, blocks - common)].concat()
                },
                |path| index.find(black_box(path), &mut matched),
                criterion::BatchSize::LargeInput,
            );
        });
    }
}

fn insert(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("prefix_index/insert");
    group.throughput(Throughput::Elements(CHAIN as u64));
    // Every insert stores 128 blocks and forgets 128.
    let chains: Vec<_> = (0..200_000).map(|number| chain(number, CHAIN)).collect();
    let mut index = empty_index(8, 10_000 * CHAIN);
    let mut steps = (0..8_u32).cycle().zip(chains.iter().cycle());
    for (endpoint, chain) in steps.by_ref().take(80_000) {
        index.insert(endpoint, chain);
    }
    group.bench_function("unique chains of 128", |bencher| {
        bencher.iter(|| {
            if let Some((endpoint, chain)) = steps.next() {
                index.insert(endpoint, chain);
            }
        });
    });

    // The same chains, each used by 64 endpoints in turn.
    let mut index = empty_index(64, 1_000 * CHAIN);
    let mut steps =
        chains.iter().take(10_000).cycle().flat_map(|chain| (0..64).map(move |endpoint| (endpoint, chain)));
    for (endpoint, chain) in steps.by_ref().take(64 * 2_000) {
        index.insert(endpoint, chain);
    }
    group.bench_function("chains of 128 shared by 64", |bencher| {
        bencher.iter(|| {
            if let Some((endpoint, chain)) = steps.next() {
                index.insert(endpoint, chain);
            }
        });
    });

    group.throughput(Throughput::Elements(1));
    let path = chain(5, 100_000);
    let mut index = empty_index(8, 50_000);
    let mut length = 1_000;
    group.bench_function("one block more", |bencher| {
        bencher.iter(|| {
            if length >= 9_000 {
                index.clear(3);
                length = 1_000;
            }
            length += 1;
            index.insert(3, path.split_at(length).0);
        });
    });

    let base = chain(9, 8192);
    let mut index = empty_index(512, 1 << 14);
    for endpoint in 0..512 {
        index.insert(endpoint, &base);
    }
    let diverging: Vec<_> =
        (0..1_000_u64).map(|number| [base.split_at(4096).0, &extended(number << 40, 64)].concat()).collect();
    let mut steps = diverging.iter().cycle();
    group.bench_function("diverging inside 8192 blocks held by 512", |bencher| {
        bencher.iter(|| {
            if let Some(path) = steps.next() {
                index.insert(77, path);
            }
        });
    });
}

fn quick() -> Criterion {
    Criterion::default()
        .without_plots()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300))
}

criterion_group! { name = benches; config = quick(); targets = find, find_cold, insert }
criterion_main!(benches);
