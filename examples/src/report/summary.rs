//! The figures of a run and what was expected of them.

use super::milliseconds;
use crate::calibration::Calibration;
use crate::engines::EngineKind;
use crate::workload::{Checks, LevelResult, Outcome, Plan, RunResult};
use serde::Serialize;
use std::time::Duration;

/// Clients at which throughput is compared.
const THROUGHPUT_GOAL_CLIENTS: usize = 20;

/// Figures of the throughput step under one routing; `errors` counts those of all steps.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Answered requests per second over all levels.
    pub requests_per_s: f64,
    /// Median time to the first token, in milliseconds.
    pub ttft_p50_ms: f64,
    /// 95th percentile of the time to the first token, in milliseconds.
    pub ttft_p95_ms: f64,
    /// Mean time to the first token, in milliseconds.
    pub ttft_mean_ms: f64,
    /// Prompt tokens that the engines had in their caches, as a share of all, in [0, 1].
    pub cached_token_ratio: f64,
    /// Failed requests of all steps.
    pub errors: usize,
    /// Share of the requests that each replica served, in [0, 1].
    pub share: Vec<f64>,
    /// The same per level.
    pub levels: Vec<LevelFigures>,
    /// The burst with one hot prefix: share of each replica, in [0, 1].
    pub burst_share: Vec<f64>,
    /// The burst with one hot prefix: 95th percentile of the time to the first token, in milliseconds.
    pub burst_ttft_p95_ms: f64,
}

/// Figures of one level of the throughput step.
#[derive(Debug, Clone, Serialize)]
pub struct LevelFigures {
    /// Clients that sent at the same time.
    pub concurrency: usize,
    /// Answered requests per second.
    pub requests_per_s: f64,
    /// Median time to the first token, in milliseconds.
    pub ttft_p50_ms: f64,
    /// 95th percentile of the time to the first token, in milliseconds.
    pub ttft_p95_ms: f64,
    /// Cached prompt tokens as a share of all, in [0, 1].
    pub cached_token_ratio: f64,
}

/// One expectation of the comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Goal {
    /// What is expected.
    pub name: String,
    /// What was measured.
    pub value: f64,
    /// Whether it is as expected.
    pub ok: bool,
}

/// Everything that `summary.json` holds.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// `simulator` or `vllm`.
    pub engine: EngineKind,
    /// Processor and cores of the machine.
    pub machine: String,
    /// Under Envoy's round robin.
    pub round_robin: Figures,
    /// Under p3sched.
    pub p3sched: Figures,
    /// What the steps found under p3sched.
    pub checks: Checks,
    /// What was expected of the figures.
    pub goals: Vec<Goal>,
    /// The throughput step as it was sent, so that it can be simulated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<Plan>,
    /// One engine alone, measured before the first run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
}

impl Figures {
    /// Computes the figures of a run over `replicas` replicas.
    #[must_use]
    pub fn of(run: &RunResult, replicas: usize) -> Self {
        let outcomes: Vec<_> = run.levels.iter().flat_map(|level| &level.outcomes).collect();
        let waits = waits(&outcomes);
        let burst: Vec<_> = run.burst.iter().collect();
        let seconds: Duration = run.levels.iter().map(|level| level.duration).sum();
        Self {
            requests_per_s: rounded(answered(&outcomes) as f64 / seconds.as_secs_f64(), 2),
            ttft_p50_ms: percentile(&waits, 50),
            ttft_p95_ms: percentile(&waits, 95),
            ttft_mean_ms: rounded(waits.iter().sum::<f64>() / waits.len().max(1) as f64, 1),
            cached_token_ratio: cached_token_ratio(&outcomes),
            errors: run.errors.len(),
            share: share(&outcomes, replicas),
            levels: run.levels.iter().map(LevelFigures::of).collect(),
            burst_share: share(&burst, replicas),
            burst_ttft_p95_ms: percentile(&self::waits(&burst), 95),
        }
    }

    fn throughput_at(&self, concurrency: usize) -> Option<f64> {
        self.levels.iter().find(|level| level.concurrency == concurrency).map(|level| level.requests_per_s)
    }
}

impl LevelFigures {
    fn of(level: &LevelResult) -> Self {
        let outcomes: Vec<_> = level.outcomes.iter().collect();
        let waits = waits(&outcomes);
        Self {
            concurrency: level.concurrency,
            requests_per_s: rounded(answered(&outcomes) as f64 / level.duration.as_secs_f64(), 2),
            ttft_p50_ms: percentile(&waits, 50),
            ttft_p95_ms: percentile(&waits, 95),
            cached_token_ratio: cached_token_ratio(&outcomes),
        }
    }
}

impl Summary {
    /// Compares two runs of the same workload.
    #[must_use]
    pub fn new(engine: EngineKind, round_robin: Figures, p3sched: Figures, checks: Checks) -> Self {
        let goals = match engine {
            EngineKind::Simulator => simulator_goals(&round_robin, &p3sched),
            EngineKind::Vllm => vllm_goals(&round_robin, &p3sched),
        };
        let machine = machine();
        Self { engine, machine, round_robin, p3sched, checks, goals, workload: None, calibration: None }
    }

    /// What the figures mean, in one sentence.
    #[must_use]
    pub fn meaning(&self) -> String {
        let (before, after) = (&self.round_robin, &self.p3sched);
        let percent = |ratio: f64| (ratio * 100.0).round();
        let wait = after.ttft_mean_ms / before.ttft_mean_ms - 1.0;
        let wait = format!("{:.0} % {}", wait.abs() * 100.0, if wait < 0.0 { "less" } else { "more" });
        let clients = self.busiest_common_level();
        let speed = match (before.throughput_at(clients), after.throughput_at(clients)) {
            (Some(before), Some(after)) if before > 0.0 => after / before,
            _ => after.requests_per_s / before.requests_per_s,
        };
        format!(
            "Sent to the replica that already holds its beginning, a prompt is {:.0} % cached instead of {:.0} %: \
             users wait {wait} for their first token, and the same replicas answer {speed:.1} times as many requests \
             per second with {clients} clients.",
            percent(after.cached_token_ratio),
            percent(before.cached_token_ratio),
        )
    }

    fn busiest_common_level(&self) -> usize {
        let levels = || self.p3sched.levels.iter().map(|level| level.concurrency);
        levels().find(|clients| *clients == THROUGHPUT_GOAL_CLIENTS).or(levels().max()).unwrap_or(1)
    }
}

fn simulator_goals(before: &Figures, after: &Figures) -> Vec<Goal> {
    let clients = THROUGHPUT_GOAL_CLIENTS;
    let throughput =
        after.throughput_at(clients).unwrap_or(0.0) / before.throughput_at(clients).unwrap_or(f64::NAN);
    vec![
        at_least("cached tokens with p3sched at least 60 %", after.cached_token_ratio, 0.60),
        at_most("cached tokens with round robin at most 40 %", before.cached_token_ratio, 0.40),
        at_least(
            &format!("requests/s with {clients} clients at least 1.3 times round robin"),
            throughput,
            1.3,
        ),
        at_most(
            "time to first token p95 at most 0.75 times round robin",
            after.ttft_p95_ms / before.ttft_p95_ms,
            0.75,
        ),
        at_most("failed requests with p3sched: 0", after.errors as f64, 0.0),
    ]
}

fn vllm_goals(before: &Figures, after: &Figures) -> Vec<Goal> {
    vec![
        at_least("cached tokens with p3sched at least 85 %", after.cached_token_ratio, 0.85),
        at_most(
            "mean time to first token at most 0.75 times round robin",
            after.ttft_mean_ms / before.ttft_mean_ms,
            0.75,
        ),
        at_most("failed requests with p3sched: 0", after.errors as f64, 0.0),
    ]
}

fn at_least(name: &str, value: f64, goal: f64) -> Goal {
    Goal { name: name.to_owned(), value: rounded(value, 4), ok: value >= goal }
}

fn at_most(name: &str, value: f64, goal: f64) -> Goal {
    Goal { name: name.to_owned(), value: rounded(value, 4), ok: value <= goal }
}

/// Times to the first token in milliseconds, ascending.
fn waits(outcomes: &[&Outcome]) -> Vec<f64> {
    let mut waits: Vec<_> =
        outcomes.iter().filter_map(|outcome| outcome.time_to_first_token.map(milliseconds)).collect();
    waits.sort_by(f64::total_cmp);
    waits
}

/// Nearest-rank percentile of ascending values; 0 if there are none.
fn percentile(ascending: &[f64], percent: usize) -> f64 {
    let rank = (ascending.len() * percent).div_ceil(100).saturating_sub(1);
    rounded(ascending.get(rank).copied().unwrap_or(0.0), 1)
}

fn share(outcomes: &[&Outcome], replicas: usize) -> Vec<f64> {
    let served = |replica| outcomes.iter().filter(|outcome| outcome.replica == Some(replica)).count();
    (0..replicas).map(|replica| rounded(served(replica) as f64 / outcomes.len().max(1) as f64, 4)).collect()
}

fn answered(outcomes: &[&Outcome]) -> usize {
    outcomes.iter().filter(|outcome| outcome.error.is_none()).count()
}

fn cached_token_ratio(outcomes: &[&Outcome]) -> f64 {
    let prompt: u64 = outcomes.iter().map(|outcome| outcome.prompt_tokens).sum();
    let cached: u64 = outcomes.iter().map(|outcome| outcome.cached_tokens).sum();
    rounded(cached as f64 / prompt.max(1) as f64, 4)
}

fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

/// Processor and cores of this machine, such as `4 × Intel(R) Xeon(R)`.
#[must_use]
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("processor of unknown type", |(_, model)| model.trim());
    format!("{cores} × {model}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(wait: u64, replica: usize, cached_tokens: u64) -> Outcome {
        Outcome {
            time_to_first_token: Some(Duration::from_millis(wait)),
            prompt_tokens: 1000,
            cached_tokens,
            replica: Some(replica),
            ..Outcome::default()
        }
    }

    fn run(waits: impl Iterator<Item = u64>, cached: u64, seconds: u64) -> RunResult {
        let outcomes = waits.enumerate().map(|(index, wait)| outcome(wait, index % 2, cached)).collect();
        let checks =
            Checks { functions: true, cache_routing: true, distribution: true, burst: true, failure: true };
        let level = LevelResult { concurrency: 20, duration: Duration::from_secs(seconds), outcomes };
        RunResult { checks, levels: vec![level], burst: Vec::new(), errors: Vec::new() }
    }

    #[test]
    fn figures_are_those_of_the_outcomes() {
        let figures = Figures::of(&run(1..=100, 250, 10), 3);
        assert_eq!((figures.ttft_p50_ms, figures.ttft_p95_ms, figures.ttft_mean_ms), (50.0, 95.0, 50.5));
        assert_eq!((figures.requests_per_s, figures.cached_token_ratio), (10.0, 0.25));
        assert_eq!(figures.share, [0.5, 0.5, 0.0]);
    }

    #[test]
    fn goals_compare_the_two_routings() {
        let before = Figures::of(&run(1..=100, 250, 10), 2);
        let after = Figures::of(&run((1..=100).map(|wait| wait / 2), 700, 5), 2);
        let checks = run(1..=1, 0, 1).checks;
        let better = Summary::new(EngineKind::Simulator, before.clone(), after.clone(), checks);
        assert!(better.goals.iter().all(|goal| goal.ok), "{:?}", better.goals);
        assert!(better.meaning().contains("70 % cached instead of 25 %"), "{}", better.meaning());
        assert!(better.meaning().contains("2.0 times as many"), "{}", better.meaning());
        let worse = Summary::new(EngineKind::Simulator, after, before, checks);
        assert_eq!(worse.goals.iter().filter(|goal| goal.ok).count(), 1, "{:?}", worse.goals);
        assert!(worse.meaning().contains("more for their first token"), "{}", worse.meaning());
    }

    #[test]
    fn the_summary_has_its_documented_shape() {
        let figures = Figures::of(&run(1..=4, 0, 1), 3);
        let summary = Summary::new(EngineKind::Vllm, figures.clone(), figures, run(1..=1, 0, 1).checks);
        let json = serde_json::to_value(summary).unwrap();
        assert_eq!(json["engine"], "vllm");
        for routing in ["round_robin", "p3sched"] {
            for name in ["requests_per_s", "ttft_p50_ms", "ttft_p95_ms", "cached_token_ratio", "errors"] {
                assert!(json[routing][name].is_number(), "{routing} {name}");
            }
            assert_eq!(json[routing]["share"].as_array().map(Vec::len), Some(3));
        }
        for check in ["functions", "cache_routing", "distribution", "burst", "failure"] {
            assert_eq!(json["checks"][check], true, "{check}");
        }
    }
}
