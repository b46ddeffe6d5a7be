//! Threads that pick at once.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
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
                Ok(vec![scaling(settings, name, threads, prompts, goal)?])
            }));
        }
    }
    cases
}

/// Picks per second of so many threads over those of one.
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
    let rounds = if settings.quick { 3 } else { 51 };
    let (mut one, mut many) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        one.push(picks_per_second(&scheduler, &prompts, 1));
        many.push(picks_per_second(&scheduler, &prompts, threads));
    }
    let (one, many) = (Sample::new(one), Sample::new(many));
    let ratio = many.over(&one);
    Ok(Figure {
        name,
        value: ratio.median(),
        unit: "×",
        goal,
        spread: ratio.spread(),
        detail: format!("{:.0} k picks/s, one thread {:.0} k", many.median() / 1e3, one.median() / 1e3),
    })
}

fn picks_per_second(scheduler: &Scheduler, prompts: &[Request], threads: usize) -> f64 {
    const WINDOW: Duration = Duration::from_millis(10);
    let (start, stop) = (Barrier::new(threads + 1), AtomicBool::new(false));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let own = prompts.iter().cycle().skip(thread * prompts.len() / threads);
                scope.spawn(|| {
                    start.wait();
                    pick_until(scheduler, own, &stop)
                })
            })
            .collect();
        start.wait();
        thread::sleep(WINDOW);
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().map(|worker| worker.join().unwrap_or(0.0)).sum()
    })
}

/// Picks and completes until told to stop; gives picks per second.
fn pick_until<'a>(scheduler: &Scheduler, own: impl Iterator<Item = &'a Request>, stop: &AtomicBool) -> f64 {
    let begin = Instant::now();
    let mut picks = 0_u32;
    for request in own {
        if let Ok(decision) = scheduler.pick(request, 0) {
            scheduler.complete(decision.id, Outcome::success(), 0).ok();
        }
        picks += 1;
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    f64::from(picks) / begin.elapsed().as_secs_f64()
}
