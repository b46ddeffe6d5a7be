//! Threads that pick at once, beside threads that do the same and share nothing.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use p3sched::{Outcome, Request, Scheduler};

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
                scaling(settings, &name, threads, prompts, goal)
            }));
        }
    }
    cases
}

/// Picks per second of so many threads over those of one.
///
/// The control is the same with a scheduler for each thread: what the machine gives to threads that share nothing. Where
/// that does not scale, it has no free cores, and the figure says nothing about the scheduler. What a cache line takes from
/// core to core, 30 to 300 ns, bounds what threads that share anything can reach.
fn scaling(
    settings: &Settings,
    name: &str,
    threads: usize,
    prompt_count: u64,
    goal: Goal,
) -> Result<Vec<Figure>> {
    let prompts = prompts(prompt_count, SHORT);
    let schedulers = (0..threads).map(|_| busy_scheduler(64)).collect::<Result<Vec<_>>>()?;
    schedulers.iter().try_for_each(|scheduler| warm_up(scheduler, &prompts))?;
    let mut rates = [const { Vec::new() }; 3];
    for _ in 0..if settings.quick { 1 } else { 9 } {
        rates[0].extend(per_second(&prompts, 1, |_| &schedulers[0]));
        rates[1].extend(per_second(&prompts, threads, |_| &schedulers[0]));
        rates[2].extend(per_second(&prompts, threads, |thread| &schedulers[thread]));
    }
    let [one, shared, own] = rates.map(Sample::new);
    let thousands = |sample: &Sample| format!("{:.0} k picks/s", sample.median() / 1e3);
    let figure = |name: String, ratio: Sample, goal, detail| Figure {
        name,
        value: ratio.median(),
        unit: "×",
        goal,
        spread: ratio.spread(),
        detail,
    };
    let together = format!("{}, one thread {}", thousands(&shared), thousands(&one));
    let apart = format!("a scheduler per thread: {}", thousands(&own));
    Ok(vec![
        figure(name.to_owned(), shared.over(&one), goal, together),
        figure(format!("{name}/control"), own.over(&one), Goal::None, apart),
        figure(format!("{name}/over-control"), shared.over(&own), Goal::None, String::new()),
    ])
}

/// How often all threads together pick and complete in a second, each with its scheduler; one figure per window of time.
fn per_second<'a>(
    prompts: &[Request],
    threads: usize,
    scheduler: impl Fn(usize) -> &'a Scheduler + Sync,
) -> Vec<f64> {
    /// Threads that begin together share a core until the operating system moves one.
    const SETTLE: Duration = Duration::from_millis(30);
    const WINDOW: Duration = Duration::from_millis(10);
    const WINDOWS: usize = 10;
    let (start, stop) = (Barrier::new(threads + 1), AtomicBool::new(false));
    let counts: Vec<_> = (0..threads).map(|_| CacheLine::default()).collect();
    let until_stop = |thread: usize| {
        let own = prompts.iter().cycle().skip(thread * prompts.len() / threads);
        let scheduler = scheduler(thread);
        start.wait();
        for (request, count) in own.zip(1..) {
            if let Ok(decision) = scheduler.pick(request, 0) {
                scheduler.complete(decision.id, Outcome::success(), 0).ok();
            }
            counts[thread].0.store(count, Ordering::Relaxed);
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
    };
    let until_stop = &until_stop;
    let count = || counts.iter().map(|count| count.0.load(Ordering::Relaxed)).sum::<u64>();
    let window = |_| {
        let (begin, before) = (Instant::now(), count());
        thread::sleep(WINDOW);
        (count() - before) as f64 / begin.elapsed().as_secs_f64()
    };
    thread::scope(|scope| {
        (0..threads).for_each(|thread| drop(scope.spawn(move || until_stop(thread))));
        start.wait();
        thread::sleep(SETTLE);
        let rates = (0..WINDOWS).map(window).collect();
        stop.store(true, Ordering::Relaxed);
        rates
    })
}

/// A number that no other thread's numbers share a cache line with.
#[derive(Default)]
#[repr(align(128))]
struct CacheLine(AtomicU64);
