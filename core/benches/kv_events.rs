//! What event mode costs: memory per block, events per second, the worst single event, and how long a restore takes.
//!
//! One process measures one thing after the other and prints a line for each; resident memory is read from the system.

#![expect(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a benchmark reads the clock, prints and fails by panicking"
)]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use p3sched::prefix_index::{EventIndex, StoredBlocks};
use p3sched::{Endpoint, Request, Scheduler, SchedulerConfig};

const CHAIN: usize = 128;

/// Chained hashes of a path of its own.
fn chain(seed: u64, length: usize) -> Vec<u64> {
    let mut hash = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let chain = (0..length).map(|_| {
        hash ^= hash << 13;
        hash ^= hash >> 7;
        hash ^= hash << 17;
        hash.wrapping_mul(0xd6e8_feb8_6659_fd93)
    });
    chain.collect()
}

/// What an engine calls these blocks.
fn names(hashes: &[u64]) -> Vec<u64> {
    hashes.iter().map(|hash| hash.rotate_left(9) ^ 0x5555).collect()
}

fn store(index: &mut EventIndex, lane: u32, hashes: &[u64], names: &[u64]) {
    index.store(lane, &StoredBlocks { parent: None, hashes, names, stride: 1 });
}

fn resident_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = status.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(f64::NAN);
    pages * 4096.0
}

fn index_with_lanes(lanes: u32) -> EventIndex {
    let mut index = EventIndex::new();
    (0..lanes).for_each(|lane| index.add_lane(lane));
    index
}

fn unique_chains(blocks: usize) {
    let before = resident_bytes();
    let mut index = index_with_lanes(8);
    let (mut stored, mut worst) = (0.0, 0.0_f64);
    for seed in 0..blocks / CHAIN {
        let hashes = chain(seed as u64, CHAIN);
        let names = names(&hashes);
        let start = Instant::now();
        store(&mut index, (seed % 8) as u32, &hashes, &names);
        let seconds = start.elapsed().as_secs_f64();
        stored += seconds;
        worst = worst.max(seconds);
    }
    let per_block = |bytes: f64| bytes / blocks as f64;
    println!(
        "{blocks} unique blocks: {:.1} B/block resident, {:.1} counted; stored {:.1} M blocks/s, worst store {:.0} us",
        per_block(resident_bytes() - before),
        per_block(index.bytes() as f64),
        blocks as f64 / stored / 1e6,
        worst * 1e6
    );
    let chains: Vec<u64> = (0..4_096).map(|n| n * 17 % (blocks / CHAIN) as u64).collect();
    let mut matched = [0; 8];
    let start = Instant::now();
    for &seed in &chains {
        index.find(&chain(seed, CHAIN), &mut matched);
        black_box(&matched);
    }
    println!("  look-up of {CHAIN} blocks, cold, hashes made in between: {:.0} ns", per(start, chains.len()));
    let mut removed = 0.0;
    for &seed in &chains {
        let names = names(&chain(seed, CHAIN));
        let start = Instant::now();
        index.remove_all((seed % 8) as u32, names.iter().rev().copied());
        removed += start.elapsed().as_secs_f64();
    }
    println!(
        "  removed by one event each, from the end: {:.1} M blocks/s",
        (chains.len() * CHAIN) as f64 / removed / 1e6
    );
}

fn per(start: Instant, count: usize) -> f64 {
    start.elapsed().as_nanos() as f64 / count as f64
}

fn shared_chains(unique: usize, lanes: u32) {
    let mut index = index_with_lanes(lanes);
    let chains: Vec<_> = (0..unique / CHAIN).map(|seed| chain(seed as u64, CHAIN)).collect();
    let named: Vec<_> = chains.iter().map(|chain| (chain, names(chain))).collect();
    named.iter().for_each(|(chain, names)| store(&mut index, 0, chain, names));
    let (resident, counted) = (resident_bytes(), index.bytes() as f64);
    let start = Instant::now();
    for lane in 1..lanes {
        named.iter().for_each(|(chain, names)| store(&mut index, lane, chain, names));
    }
    let holdings = (lanes as usize - 1) * unique;
    println!(
        "{unique} blocks of {lanes} endpoints: {:.2} B/holding resident, {:.2} counted; stored {:.1} M blocks/s",
        (resident_bytes() - resident) / holdings as f64,
        (index.bytes() as f64 - counted) / holdings as f64,
        1e3 / per(start, holdings)
    );
    let start = Instant::now();
    for lane in 1..lanes {
        named.iter().for_each(|(_, names)| {
            index.remove(lane, names[0]);
        });
    }
    println!("  removed at once from the head: {:.1} M blocks/s", 1e3 / per(start, holdings));
}

fn decode_events(chains: usize) {
    let mut index = index_with_lanes(8);
    let paths: Vec<_> = (0..chains).map(|seed| chain(seed as u64, CHAIN + 64)).collect();
    let named: Vec<_> = paths.iter().map(|path| (path, names(path))).collect();
    for (seed, (path, names)) in named.iter().enumerate() {
        store(&mut index, (seed % 8) as u32, &path[..CHAIN], &names[..CHAIN]);
    }
    let start = Instant::now();
    for at in CHAIN..CHAIN + 64 {
        for (seed, (path, names)) in named.iter().enumerate() {
            let lane = (seed % 8) as u32;
            let parent = index.position(lane, names[at - 1]);
            let (hashes, names) = (&path[at..=at], &names[at..=at]);
            index.store(lane, &StoredBlocks { parent, hashes, names, stride: 1 });
        }
    }
    println!("one-block decode events, {chains} chains in turn: {:.0} ns", per(start, chains * 64));
}

/// The oldest chain goes when a new one comes.
fn churn(blocks: usize) {
    let chains = blocks / CHAIN;
    let mut index = index_with_lanes(8);
    let named = |seed: usize| {
        let hashes = chain(seed as u64, CHAIN);
        let names = names(&hashes);
        (hashes, names)
    };
    (0..chains).for_each(|seed| {
        let (hashes, names) = named(seed);
        store(&mut index, (seed % 8) as u32, &hashes, &names);
    });
    let (mut stored, mut removed, mut worst) = (0.0, 0.0, 0.0_f64);
    for seed in chains..2 * chains {
        let (_, old) = named(seed - chains);
        let (hashes, names) = named(seed);
        let start = Instant::now();
        index.remove_all(((seed - chains) % 8) as u32, old.iter().rev().copied());
        let between = Instant::now();
        store(&mut index, (seed % 8) as u32, &hashes, &names);
        stored += between.elapsed().as_secs_f64();
        removed += (between - start).as_secs_f64();
        worst = worst.max(start.elapsed().as_secs_f64());
    }
    println!(
        "{blocks} blocks of chains that come and go: stored {:.1} M blocks/s, removed {:.1}, worst pair {:.0} us",
        blocks as f64 / stored / 1e6,
        blocks as f64 / removed / 1e6,
        worst * 1e6
    );
}

fn worst_single_event() {
    let mut index = index_with_lanes(512);
    let path = chain(1, 8_192);
    let called = names(&path);
    (0..512).for_each(|lane| store(&mut index, lane, &path, &called));
    let (mut worst_store, mut worst_remove) = (0.0_f64, 0.0_f64);
    for lane in 0..512 {
        let at = 1 + lane as usize * 16;
        let fork = chain(1_000 + u64::from(lane), 16);
        let parent = index.position(lane, called[at]);
        let start = Instant::now();
        index.store(lane, &StoredBlocks { parent, hashes: &fork, names: &names(&fork), stride: 1 });
        worst_store = worst_store.max(start.elapsed().as_secs_f64());
    }
    for lane in 0..512 {
        let start = Instant::now();
        index.remove(lane, called[4_096]);
        worst_remove = worst_remove.max(start.elapsed().as_secs_f64());
    }
    println!(
        "8192 blocks of 512 endpoints: worst diverging store {:.1} us, worst removal in the middle {:.1} us",
        worst_store * 1e6,
        worst_remove * 1e6
    );
}

fn restore(blocks: usize) {
    let scheduler = || {
        let mut config = SchedulerConfig::default();
        config.default_capacity_tokens = 1 << 30;
        config.load_gate_seconds = None;
        let scheduler = Scheduler::new(config).expect("the configuration is valid");
        for endpoint in 0..64 {
            scheduler.add_endpoint(Endpoint::new(format!("10.0.0.{endpoint}:8000"))).expect("a name");
        }
        scheduler
    };
    let before = scheduler();
    for prompt in 0..blocks / CHAIN {
        let request = Request::from_text("m", format!("{prompt:08}").repeat(CHAIN * 8));
        before.pick(&request, prompt as u64).expect("there are endpoints");
    }
    let longest_wait = (0..5).map(|_| longest_pick_beside_a_snapshot(&before)).fold(f64::INFINITY, f64::min);
    let start = Instant::now();
    let snapshot = before.snapshot();
    let written = start.elapsed().as_secs_f64();
    let after = scheduler();
    let start = Instant::now();
    after.restore(&snapshot).expect("the snapshot is whole");
    println!(
        "snapshot of {} blocks: {:.1} MB, written in {:.1} ms, picks wait {:.1} ms, restored in {:.1} ms",
        after.stats(0).index.unique_blocks,
        snapshot.len() as f64 / 1e6,
        written * 1e3,
        longest_wait * 1e3,
        start.elapsed().as_secs_f64() * 1e3
    );
}

/// Seconds of the slowest pick that is made while a snapshot is written.
fn longest_pick_beside_a_snapshot(scheduler: &Scheduler) -> f64 {
    let (is_picking, is_written) = (AtomicBool::new(false), AtomicBool::new(false));
    let request = Request::from_text("m", "hello");
    std::thread::scope(|scope| {
        let picking = scope.spawn(|| {
            let mut longest = 0.0_f64;
            while !is_written.load(Ordering::Relaxed) {
                let start = Instant::now();
                scheduler.explain(&request, 0).expect("there are endpoints");
                longest = longest.max(start.elapsed().as_secs_f64());
                is_picking.store(true, Ordering::Relaxed);
            }
            longest
        });
        while !is_picking.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
        black_box(scheduler.snapshot());
        is_written.store(true, Ordering::Relaxed);
        picking.join().expect("picks do not panic")
    })
}

fn main() {
    unique_chains(10_000_000);
    shared_chains(160_000, 64);
    churn(100_000);
    churn(4_000_000);
    decode_events(256);
    decode_events(8_192);
    worst_single_event();
    restore(1 << 20);
}
