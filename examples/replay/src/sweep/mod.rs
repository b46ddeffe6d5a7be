//! Whether the scheduler's default numbers are good ones: each is varied around its default, all else left alone.
//!
//! 1. [`defaults`]: the numbers, what is tried in their place, and those that a replay cannot judge.
//! 2. [`scenarios`]: the traffic on which they are judged.
//! 3. [`verdict`]: what follows.

pub mod defaults;
pub mod scenarios;
pub mod verdict;

use rayon::prelude::*;
use serde::Serialize;

use crate::Error;
use crate::result::Summary;
use crate::simulation::{Options, replay};
use crate::trace::Trace;

use defaults::Sweep;
use scenarios::{SCENARIOS, Scenario};
use verdict::Verdict;

/// A swept number with its results.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Swept {
    /// The number, as a configuration names it.
    pub name: String,
    /// Where it was varied: a policy, and what the schedulers do not get to know.
    pub under: String,
    /// Its default; `None` is `null`.
    pub default: Option<f64>,
    /// Results of every value, the default's among them, in the order of the values.
    pub values: Vec<Tried>,
    /// What follows.
    pub verdict: Verdict,
}

/// A value with its results.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tried {
    /// The value; `None` is `null`.
    pub value: Option<f64>,
    /// Its results, by scenario.
    pub results: Vec<Outcome>,
}

/// How a value does in one scenario.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Name of the scenario.
    pub scenario: &'static str,
    /// Seconds to the first token: the mean over all requests and seeds.
    pub mean_time_to_first_token: f64,
    /// 99th percentile of the seconds to the first token, the mean over the seeds.
    pub p99_time_to_first_token: f64,
    /// Prompt tokens that were cached, as a share of all.
    pub cached_ratio: f64,
    /// How much longer the mean time to the first token is than with the default, seed by seed: natural logarithm of the
    /// ratio, negative if it is shorter.
    pub longer: f64,
    /// Three times the standard error of that.
    pub error: f64,
}

/// Replays that sweeps take.
pub fn replays(sweeps: &[Sweep], seeds: u64) -> u64 {
    let values: usize = sweeps.iter().map(|sweep| sweep.values.len() * SCENARIOS.len()).sum();
    values as u64 * seeds
}

/// Sweeps numbers, under so many seeds each; `progress` is told how many replays have ended.
///
/// # Errors
///
/// Those of [`replay`].
pub fn run(sweeps: &[Sweep], seeds: u64, progress: &(dyn Fn(u64) + Sync)) -> Result<Vec<Swept>, Error> {
    let mut results: Vec<Vec<Tried>> = sweeps
        .iter()
        .map(|sweep| sweep.values.iter().map(|&value| Tried { value, results: Vec::new() }).collect())
        .collect();
    // Scenario by scenario, so that the requests of one alone are in memory.
    for scenario in &SCENARIOS {
        let traces: Vec<_> = (0..seeds).map(|seed| scenario.trace(seed)).collect::<Result<_, _>>()?;
        for (sweep, tried) in sweeps.iter().zip(&mut results) {
            judge(sweep, scenario, &traces, tried, progress)?;
        }
    }
    let swept = sweeps.iter().zip(results).map(|(sweep, values)| Swept {
        name: sweep.name.to_owned(),
        under: match sweep.policy {
            "default" => sweep.under.words().to_owned(),
            policy => format!("{policy} {}", sweep.under.words()).trim_end().to_owned(),
        },
        default: sweep.default,
        verdict: Verdict::of(&values, sweep.default),
        values,
    });
    Ok(swept.collect())
}

/// Adds the results of every value in a scenario.
fn judge(
    sweep: &Sweep,
    scenario: &Scenario,
    traces: &[Trace],
    tried: &mut [Tried],
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(), Error> {
    let runs: Vec<_> =
        sweep.values.iter().flat_map(|&value| (0..).zip(traces).map(move |run| (value, run))).collect();
    let run = |(value, (seed, trace)): &(Option<f64>, (u64, &Trace))| {
        let mut policy = sweep.start()?;
        sweep.place.set(&mut policy.config, *value)?;
        let mut options = Options { seed: *seed, ..scenario.options(policy)? };
        sweep.under.apply(&mut options);
        let summary = Summary::of(&replay(trace, &options, &|_| {})?);
        progress(1);
        Ok(summary)
    };
    let summaries: Vec<Summary> = runs.par_iter().map(run).collect::<Result<_, Error>>()?;
    let by_value: Vec<_> = summaries.chunks(traces.len().max(1)).collect();
    let at = sweep.values.iter().position(|value| *value == sweep.default);
    let default = at.and_then(|at| by_value.get(at)).copied().unwrap_or_default();
    for (tried, summaries) in tried.iter_mut().zip(&by_value) {
        tried.results.push(Outcome::of(scenario.name, summaries, default));
    }
    Ok(())
}

impl Outcome {
    fn of(scenario: &'static str, summaries: &[Summary], default: &[Summary]) -> Self {
        let count = summaries.len().max(1) as f64;
        let mean = |of: fn(&Summary) -> f64| summaries.iter().map(of).sum::<f64>() / count;
        let wait = |summary: &Summary| summary.time_to_first_token.mean.max(1e-9).ln();
        let longer: Vec<_> =
            summaries.iter().zip(default).map(|(own, default)| wait(own) - wait(default)).collect();
        let average = longer.iter().sum::<f64>() / count;
        let variance =
            longer.iter().map(|longer| (longer - average).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
        Self {
            scenario,
            mean_time_to_first_token: mean(|summary| summary.time_to_first_token.mean),
            p99_time_to_first_token: mean(|summary| summary.time_to_first_token.p99),
            cached_ratio: mean(|summary| summary.cached_ratio),
            longer: average,
            error: 3.0 * (variance / count).sqrt(),
        }
    }
}
