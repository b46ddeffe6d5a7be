//! Threads that pick at once.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use p3sched::block_hash::BlockHasher;
use p3sched::{Outcome, Request};

use super::Case;
use super::pick::{SHORT, busy_scheduler, prompts, warm_up};
use crate::measure::Sample;
use crate::report::{Figure, Goal};
use crate::{Settings, machine};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for threads in [2, 4, 8, 16].into_iter().filter(|&threads| threads <= machine::cores()) {
        for (kind, prompts, goal) in [("distinct-prompts", 16, 1.8), ("one-hot-prompt", 1, 1.5)] {
            let name = format!("threads/{kind}/{threads}");
            let goal = if threads == 2 { Goal::AtLeast(goal) } else { Goal::None };
            cases.push(Case::new(name.clone(), move |settings| {
                Ok(vec![scaling(settings, name, threads, prompts, goal)?])
            }));
        }
    }
    cases
}

/// Picks per second of so many threads over those of one.
///
/// The same is done with work that threads do not share, hashing: where that does not scale either, the machine has no
/// free cores and the figure says nothing.
fn scaling(
    settings: &Settings,
    name: String,
    threads: usize,
    prompt_count: u64,
    goal: Goal,
) -> Result<Figure> {
    let scheduler = busy_scheduler(64)?;
    let prompts = prompts(prompt_count, SHORT);
    warm_up(&scheduler, &prompts)?;
    let hasher = BlockHasher::default();
    let pick = |request: &Request, _: &mut Vec<u64>| {
        if let Ok(decision) = scheduler.pick(request, 0) {
            scheduler.complete(decision.id, Outcome::success(), 0).ok();
        }
    };
    let hash = |request: &Request, hashes: &mut Vec<u64>| {
        hasher.hash(request, hashes);
        black_box(hashes);
    };
    let mut rates = [const { Vec::new() }; 4];
    for _ in 0..if settings.quick { 3 } else { 51 } {
        rates[0].push(per_second(&prompts, 1, pick));
        rates[1].push(per_second(&prompts, threads, pick));
        rates[2].push(per_second(&prompts, 1, hash));
        rates[3].push(per_second(&prompts, threads, hash));
    }
    let [one, many, hash_one, hash_many] = rates.map(Sample::new);
    let ratio = many.over(&one);
    Ok(Figure {
        name,
        value: ratio.median(),
        unit: "×",
        goal,
        spread: ratio.spread(),
        detail: format!(
            "{:.0} k picks/s, one thread {:.0} k; work that shares nothing scales {:.2} ×",
            many.median() / 1e3,
            one.median() / 1e3,
            hash_many.over(&hash_one).median()
        ),
    })
}

/// How often all threads together do the work in a second.
fn per_second(prompts: &[Request], threads: usize, work: impl Fn(&Request, &mut Vec<u64>) + Sync) -> f64 {
    const WINDOW: Duration = Duration::from_millis(10);
    let (start, stop, work) = (Barrier::new(threads + 1), AtomicBool::new(false), &work);
    let until_stop = |thread: usize| {
        let own = prompts.iter().cycle().skip(thread * prompts.len() / threads);
        let mut hashes = Vec::new();
        start.wait();
        let begin = Instant::now();
        let mut count = 0_u32;
        for request in own {
            work(request, &mut hashes);
            count += 1;
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        f64::from(count) / begin.elapsed().as_secs_f64()
    };
    let until_stop = &until_stop;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|thread| scope.spawn(move || until_stop(thread))).collect();
        start.wait();
        thread::sleep(WINDOW);
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().map(|worker| worker.join().unwrap_or(0.0)).sum()
    })
}
