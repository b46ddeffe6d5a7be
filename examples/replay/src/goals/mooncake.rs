//! Cells on Mooncake's conversation trace.

use std::time::Instant;

use super::{Settings, best, first_token, of, options, ranking, ratio};
use crate::Error;
use crate::comparison::{Input, compare, policies};
use crate::figure::{Figure, Goal};
use crate::policy::Policy;
use crate::result::{Mean, Summary};
use crate::simulation::{Arrivals, Options, Scrape, replay};
use crate::trace::Trace;

/// For times: a node and a model of the size that the trace was recorded with.
const ENGINE: &str = "4xh100-70b";
/// For caches: so fast that three of them keep up, and nobody has to give up a hit for want of time.
const FAST_ENGINE: &str = "h100";
/// Of 512 tokens each.
const BLOCKS: Option<usize> = Some(10_000);

/// Cached tokens and balance at the trace's own speed.
pub(super) fn cache(settings: &Settings<'_>, trace: &Trace) -> Result<Vec<Figure>, Error> {
    let input = Input::Recorded(trace.clone());
    let mut figures = Vec::new();
    for (replicas, goal) in [(3, 33.0), (8, 36.5), (16, 37.0)] {
        let base = options(FAST_ENGINE, BLOCKS, replicas)?;
        let names = ["default", "round-robin", "dynamo", "kserve-current", "literal-3-1-1"];
        let compared = compare(&input, &policies(&base, &names)?, settings.seeds, settings.progress)?;
        let cached = |summary: &Summary| summary.cached_ratio * 100.0;
        let name = |what: &str| format!("mooncake/cache/{replicas}-replicas/{what}");
        for case in &compared {
            let goal = if case.policy == "default" { Goal::AtLeast(goal) } else { Goal::None };
            let detail =
                format!("{FAST_ENGINE}, 10 000 blocks of 512 tokens; {:.3} s", case.mean(first_token).value);
            let name = name(&format!("cached-tokens/{}", case.policy));
            figures.push(Figure::new(name, case.mean(cached), "%", goal).detail(detail));
        }
        let default = of(&compared, "default")?;
        let balance = default.mean(|summary| summary.max_over_mean_prompt_tokens);
        let detail = format!(
            "prompt tokens; requests {:.3}, time computed {:.3}",
            default.mean(|summary| summary.max_over_mean_requests).value,
            default.mean(|summary| summary.max_over_mean_busy).value
        );
        figures.push(
            Figure::new(name("max-over-mean-load"), balance, "ratio", Goal::AtMost(1.10)).detail(detail),
        );
    }
    Ok(figures)
}

/// Eight replicas at 1.5 times the trace's speed.
pub(super) fn fast_options() -> Result<Options, Error> {
    let arrivals = Arrivals::Open { speed: 1.5, jitter: true };
    Ok(Options { arrivals, ..options(ENGINE, BLOCKS, 8)? })
}

/// Times to the first token at 1.5 times the speed.
pub(super) fn fast(settings: &Settings<'_>, trace: &Trace) -> Result<Vec<Figure>, Error> {
    let input = Input::Recorded(trace.clone());
    let base = fast_options()?;
    // Under another name it would be compared with itself.
    let names: Vec<_> = Policy::names().filter(|name| *name != "llm-d").collect();
    let compared = compare(&input, &policies(&base, &names)?, settings.seeds, settings.progress)?;
    let default = of(&compared, "default")?;
    let mut figures = Vec::new();
    let p99 = |summary: &Summary| summary.time_to_first_token.p99;
    for (name, value) in [("mean", first_token as fn(&Summary) -> f64), ("p99", p99)] {
        let Some((_, rival)) = best(&compared, &["default"], value) else { continue };
        let over_best = ratio(default, of(&compared, rival)?, value);
        let detail = format!("{ENGINE}; {}", ranking(&compared, value, "s"));
        let name = format!("mooncake/fast/{name}-time-to-first-token-over-best-other");
        figures.push(Figure::new(name, over_best, "ratio", Goal::AtMost(1.0)).detail(detail));
    }
    figures.extend(literal_over_default(settings, &input, &base)?);
    figures.push(Figure::new(
        "mooncake/fast/mean-time-to-first-token",
        default.mean(first_token),
        "s",
        Goal::None,
    ));
    Ok(figures)
}

/// What the literal weights lose, by the age that scraped metrics have.
fn literal_over_default(
    settings: &Settings<'_>,
    input: &Input,
    base: &Options,
) -> Result<Vec<Figure>, Error> {
    let figure = |period: f64| {
        let base = Options { scrape: Scrape { period, delay: 0.0 }, ..base.clone() };
        let cases = policies(&base, &["default", "literal-3-1-1"])?;
        let compared = compare(input, &cases, settings.seeds, settings.progress)?;
        let over_default = ratio(of(&compared, "literal-3-1-1")?, of(&compared, "default")?, first_token);
        let name = format!(
            "mooncake/fast/mean-time-to-first-token-of-literal-3-1-1-over-default/scraped-every-{period}-s"
        );
        let detail = ranking(&compared, first_token, "s");
        Ok(Figure::new(name, over_default, "ratio", Goal::AtLeast(2.5)).detail(detail))
    };
    [0.05, 1.0, 5.0].into_iter().map(figure).collect()
}

/// How long a million requests take on one core.
pub(super) fn million(settings: &Settings<'_>, trace: &Trace) -> Result<Vec<Figure>, Error> {
    const REQUESTS: usize = 1_000_000;
    let repeat = REQUESTS.div_ceil(trace.requests.len()) as u32;
    let run = |repeat: u32| -> Result<_, Error> {
        let options = Options { repeat, ..options(ENGINE, BLOCKS, 8)? };
        let start = Instant::now();
        let replayed = replay(trace, &options, settings.progress)?;
        Ok((start.elapsed().as_secs_f64(), replayed.requests.len()))
    };
    run(repeat.div_ceil(2))?;
    let half = peak_memory();
    let (seconds, requests) = run(repeat)?;
    let whole = peak_memory();
    let time = Mean { value: seconds * REQUESTS as f64 / requests as f64, spread: 0.0 };
    let detail = format!("{requests} requests in {seconds:.1} s, 8 replicas, one thread, one run");
    let mut figures =
        vec![Figure::new("mooncake/million/time", time, "s", Goal::AtMost(60.0)).detail(detail)];
    if let (Some(half), Some(whole)) = (half, whole) {
        let memory = Mean { value: whole, spread: 0.0 };
        let detail =
            format!("peak of the process; {half:.0} MB with half as many, so what grows are the results");
        figures
            .push(Figure::new("mooncake/million/memory", memory, "MB", Goal::AtMost(1_000.0)).detail(detail));
    }
    Ok(figures)
}

/// Largest memory of this process so far, in MB, where the system says.
fn peak_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse::<f64>().ok().map(|kilobytes| kilobytes / 1e3)
}
