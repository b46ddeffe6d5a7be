//! Snapshots: what comes back, when, and what is refused.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use p3sched::{Endpoint, Error, Outcome, Request, Scheduler, SchedulerConfig};
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;

fn scheduler(endpoints: &[&str]) -> Scheduler {
    let mut config = SchedulerConfig::default();
    config.default_capacity_tokens = 1_024;
    let scheduler = Scheduler::new(config).unwrap();
    for &name in endpoints {
        scheduler.add_endpoint(Endpoint::new(name)).unwrap();
    }
    scheduler
}

fn prompt(seed: u32) -> Request {
    Request::from_text(
        "m",
        format!("shared by some of them {:04} ", seed % 3).repeat(8)
            + &format!("{seed:03} ").repeat(seed as usize * 7 % 300),
    )
}

fn used(endpoints: &[&str]) -> Scheduler {
    let scheduler = scheduler(endpoints);
    for seed in 0..40 {
        let now = u64::from(seed) * SECOND;
        let decision = scheduler.pick(&prompt(seed), now).unwrap();
        scheduler.first_token(decision.id, now + SECOND / 10).unwrap();
        scheduler.complete(decision.id, Outcome::success(), now + SECOND / 2).unwrap();
    }
    scheduler
}

/// What every endpoint is known to hold of some prompts, by name.
fn held(scheduler: &Scheduler) -> Vec<Vec<(String, u32)>> {
    let held = |seed| {
        let decision = scheduler.explain(&prompt(seed), 100 * SECOND).unwrap();
        let explanation = decision.explanation().unwrap();
        let rows = explanation.endpoints.iter().map(|row| (row.endpoint.to_string(), row.matched_tokens));
        let mut rows: Vec<_> = rows.collect();
        rows.sort();
        rows
    };
    (0..40).map(held).collect()
}

fn refusal(scheduler: &Scheduler, bytes: &[u8]) -> String {
    let error = scheduler.restore(bytes).unwrap_err();
    assert_eq!(error.code(), "InvalidSnapshot");
    error.to_string()
}

#[test]
fn what_was_learned_comes_back() {
    let before = used(&["a", "b", "c"]);
    let after = scheduler(&["c", "a", "b"]);
    after.restore(&before.snapshot()).unwrap();
    after.validate().unwrap();
    assert_eq!(held(&after), held(&before));
    let rates = |scheduler: &Scheduler| {
        let endpoints = scheduler.stats(0).endpoints.into_iter();
        let mut rates: Vec<_> =
            endpoints.map(|row| (row.endpoint.to_string(), row.prefill_tokens_per_second)).collect();
        rates.sort_by(|a, b| a.0.cmp(&b.0));
        rates
    };
    assert!(rates(&before).iter().any(|(_, rate)| rate.is_some()));
    assert_eq!(rates(&after), rates(&before));
    assert_eq!(after.snapshot().len(), before.snapshot().len());
}

#[test]
fn endpoints_that_come_later_find_what_they_held() {
    let before = used(&["a", "b", "c", "d"]);
    let after = scheduler(&["x"]);
    after.restore(&before.snapshot()).unwrap();
    // In any order, with strangers between them that take the places where others wait.
    for name in ["y", "d", "z", "b", "c", "a"] {
        after.add_endpoint(Endpoint::new(name)).unwrap();
        after.validate().unwrap();
    }
    for (after, before) in held(&after).iter().zip(held(&before)) {
        let known: Vec<_> =
            after.iter().filter(|(name, _)| !["x", "y", "z"].contains(&name.as_str())).cloned().collect();
        assert_eq!(known, before);
        assert!(after.iter().all(|(name, tokens)| *tokens == 0 || !["x", "y", "z"].contains(&name.as_str())));
    }
}

#[test]
fn endpoints_that_are_left_out_are_forgotten() {
    let before = used(&["a", "b", "c"]);
    let after = scheduler(&[]);
    after.restore(&before.snapshot()).unwrap();
    after.set_endpoints(vec![]).unwrap();
    assert_eq!(after.stats(0).index.unique_blocks, before.stats(0).index.unique_blocks);
    after.set_endpoints(vec![Endpoint::new("a")]).unwrap();
    assert_eq!(after.stats(0).index.unique_blocks, after.stats(0).endpoints[0].index_blocks);
    after.remove_endpoint("a").unwrap();
    assert_eq!(after.stats(0).index.unique_blocks, 0);
}

#[test]
fn a_snapshot_of_endpoints_that_are_awaited_keeps_them() {
    let before = used(&["a", "b", "c"]);
    let between = scheduler(&["b"]);
    between.restore(&before.snapshot()).unwrap();
    let after = scheduler(&["c", "b", "a"]);
    after.restore(&between.snapshot()).unwrap();
    assert_eq!(held(&after), held(&before));
}

#[test]
fn every_truncation_and_every_changed_byte_is_refused() {
    let before = used(&["a", "b"]);
    let bytes = before.snapshot();
    let scheduler = used(&["a", "c"]);
    let unchanged = held(&scheduler);
    for length in 0..bytes.len() {
        refusal(&scheduler, &bytes[..length]);
    }
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        refusal(&scheduler, &changed);
    }
    let longer = [&bytes[..], &[0]].concat();
    refusal(&scheduler, &longer);
    assert_eq!(held(&scheduler), unchanged);
}

#[test]
fn foreign_snapshots_are_refused() {
    let bytes = used(&["a"]).snapshot();
    let other = |change: fn(&mut SchedulerConfig)| {
        let mut config = SchedulerConfig::default();
        change(&mut config);
        refusal(&Scheduler::new(config).unwrap(), &bytes)
    };
    let refused = other(|config| config.block_size_tokens = 32);
    assert_eq!(refused, "invalid snapshot: block_size_tokens must be `32`: `16`");
    let refused = other(|config| config.bytes_per_token = 3);
    assert_eq!(refused, "invalid snapshot: bytes_per_token must be `3`: `4`");
    let scheduler = scheduler(&["a"]);
    assert_eq!(refusal(&scheduler, b""), "invalid snapshot: it ends too early");
    assert_eq!(refusal(&scheduler, b"a page of something else"), "invalid snapshot: it is of another format");
    let mut newer = bytes.clone();
    newer[8] = 2;
    assert_eq!(refusal(&scheduler, &newer), "invalid snapshot: version must be `1`: `2`");
    assert_eq!(
        scheduler.restore(&bytes[..bytes.len() - 1]),
        Err(Error::InvalidSnapshot("it is truncated or corrupted".to_owned()))
    );
}

proptest! {
    /// A forged checksum gets past the first check: nothing panics, and no length makes it reserve memory.
    #[test]
    fn forged_snapshots_do_no_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut bytes = used(&["a", "b"]).snapshot();
        bytes.truncate(bytes.len() - 8);
        for (at, byte) in changes {
            let at = 12 + at.index(bytes.len() - 12);
            bytes[at] = byte;
        }
        bytes.extend(xxhash_rust::xxh3::xxh3_64(&bytes).to_le_bytes());
        let scheduler = scheduler(&["a", "b"]);
        let _ = scheduler.restore(&bytes);
        for seed in 0..10 {
            scheduler.pick(&prompt(seed), 0).unwrap();
        }
    }
}
