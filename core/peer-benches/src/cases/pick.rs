//! A pick beside nothing but hashing the same prompt.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use p3sched::block_hash::BlockHasher;
use p3sched::{Endpoint, EndpointMetrics, Outcome, Request, Scheduler, SchedulerConfig};

use super::Case;
use crate::Settings;
use crate::measure::{Sample, repeat, take_turns};
use crate::report::{Figure, Goal, time_text};
use crate::workload::prompt;

/// Bytes of text that count as 4 k tokens.
pub const SHORT: usize = 16 * 1024;
/// Bytes of text that count as 100 k tokens.
const LONG: usize = 400_000;
/// Picks in flight at the end of a timed stretch.
const BATCH: u32 = 16;

const PAGE: &str = include_str!("../../../testdata/metrics/vllm-0.32-under-load.txt");

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("pick/4k-tokens/64-endpoints", |settings| {
            let name = "pick/4k-tokens/64-endpoints";
            let prompts = prompts(16, SHORT);
            let scheduler = busy_scheduler(64)?;
            Ok(vec![
                over_hashing(settings, name, 2.0, &scheduler, &prompts)?,
                allocations(&scheduler, &prompts)?,
            ])
        }),
        Case::new("pick/100k-tokens/64-endpoints", |settings| {
            let name = "pick/100k-tokens/64-endpoints";
            Ok(vec![over_hashing(settings, name, 1.25, &busy_scheduler(64)?, &prompts(4, LONG))?])
        }),
        Case::new("pick/4k-tokens/1024-endpoints", |settings| {
            let (scheduler, prompts) = (busy_scheduler(1024)?, prompts(16, SHORT));
            warm_up(&scheduler, &prompts)?;
            let [pick] = take_turns(settings, [&mut |count| time_picks(&scheduler, &prompts, count)]);
            Ok(vec![Figure {
                name: "pick/4k-tokens/1024-endpoints/time".to_owned(),
                value: pick.median() / 1e3,
                unit: "µs",
                goal: Goal::AtMost(10.0),
                spread: pick.spread(),
                detail: String::new(),
            }])
        }),
    ]
}

/// A scheduler whose endpoints report load and hold the prefixes of earlier requests.
///
/// # Errors
///
/// Those of the scheduler.
pub fn busy_scheduler(endpoints: u32) -> Result<Scheduler> {
    let scheduler = Scheduler::new(SchedulerConfig::default())?;
    for endpoint in 0..endpoints {
        let name = format!("10.0.{}.{}:8000", endpoint / 256, endpoint % 256);
        scheduler.add_endpoint(Endpoint::new(name.as_str()))?;
        let mut metrics = EndpointMetrics::from_page(PAGE)?;
        metrics.waiting_requests = Some(f64::from(endpoint % 4));
        metrics.kv_cache_utilization = Some(f64::from(endpoint % 10) / 10.0);
        scheduler.observe(&name, metrics, 0)?;
    }
    warm_up(&scheduler, &(1_000..3_000).map(request).collect::<Vec<_>>())?;
    Ok(scheduler)
}

/// Picks and completes every request once, so that every prompt is held somewhere.
///
/// # Errors
///
/// Those of the scheduler.
pub fn warm_up(scheduler: &Scheduler, requests: &[Request]) -> Result<()> {
    for request in requests {
        let decision = scheduler.pick(request, 0)?;
        scheduler.complete(decision.id, Outcome::success(), 0)?;
    }
    Ok(())
}

pub fn prompts(count: u64, bytes: usize) -> Vec<Request> {
    (0..count).map(|number| Request::from_text("llama-3-8b", prompt(number, bytes))).collect()
}

fn request(number: u64) -> Request {
    Request::from_text("llama-3-8b", prompt(number, SHORT))
}

fn over_hashing(
    settings: &Settings,
    name: &str,
    goal: f64,
    scheduler: &Scheduler,
    prompts: &[Request],
) -> Result<Figure> {
    warm_up(scheduler, prompts)?;
    let (hasher, mut hashes) = (BlockHasher::default(), Vec::new());
    let mut next = prompts.iter().cycle();
    let mut hash = repeat(|| {
        if let Some(request) = next.next() {
            hasher.hash(black_box(request), &mut hashes);
            black_box(&hashes);
        }
    });
    let mut pick = |count| time_picks(scheduler, prompts, count);
    let [pick, hash] = take_turns(settings, [&mut pick, &mut hash]);
    let ratio = pick.over(&hash);
    Ok(Figure {
        name: format!("{name}/over-hashing"),
        value: ratio.median(),
        unit: "×",
        goal: Goal::AtMost(goal),
        spread: ratio.spread(),
        detail: format!("pick {}, hashing {}", time_text(pick.median()), time_text(hash.median())),
    })
}

/// Allocations of the median pick; now and then one more grows a table.
fn allocations(scheduler: &Scheduler, prompts: &[Request]) -> Result<Figure> {
    let mut counts = Vec::new();
    for request in prompts.iter().cycle().take(1_000) {
        let mut decision = None;
        let counted = allocation_counter::measure(|| decision = scheduler.pick(request, 0).ok());
        counts.push(counted.count_total as f64);
        let decision = decision.context("nothing was picked")?;
        scheduler.complete(decision.id, Outcome::success(), 0)?;
    }
    let most = counts.iter().copied().fold(0.0, f64::max);
    Ok(Figure {
        name: "pick/4k-tokens/64-endpoints/allocations".to_owned(),
        value: Sample::new(counts).median(),
        unit: "allocations",
        goal: Goal::AtMost(2.0),
        spread: 0.0,
        detail: format!("the most of 1000 picks: {most}"),
    })
}

/// The time of the picks alone; they are completed between stretches.
fn time_picks(scheduler: &Scheduler, prompts: &[Request], count: u32) -> Duration {
    let mut next = prompts.iter().cycle();
    let mut picked = Vec::with_capacity(BATCH as usize);
    let mut time = Duration::ZERO;
    let mut left = count;
    while left > 0 {
        let batch = left.min(BATCH);
        left -= batch;
        let start = Instant::now();
        // Each a microsecond after the one before.
        let requests = next.by_ref().take(batch as usize).zip(1_u64..);
        picked.extend(requests.map(|(request, number)| scheduler.pick(black_box(request), 1_000 * number)));
        time += start.elapsed();
        for decision in picked.drain(..).flatten() {
            scheduler.complete(decision.id, Outcome::success(), 0).ok();
        }
    }
    time
}
