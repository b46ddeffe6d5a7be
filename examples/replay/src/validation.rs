//! The simulated engine against the real one: the demo's run with three replicas of vLLM on CPU.
//!
//! What is taken from the run are two measurements of one engine alone, a prompt that it does not know and the same
//! prompt again, and the plan of the workload. What the run then measured with three engines and four clients, under
//! round robin and under p3sched, is predicted and compared.

use p3sched::SchedulerConfig;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use crate::Error;
use crate::engine::{Calibration, EngineParameters};
use crate::figure::{Figure, Goal};
use crate::policy::Policy;
use crate::result::{Mean, Summary};
use crate::simulation::{Arrivals, Machine, Options, Scrape, replay};
use crate::trace::{Trace, TraceRequest};

/// Replicas of the demo, and how it starts each of them.
const REPLICAS: usize = 3;
const BLOCK_TOKENS: u32 = 32;
const BLOCKS: usize = 512;
const MAX_RUNNING: usize = 8;
const THREADS: f64 = 2.0;
/// Seconds between two scrapes.
const SCRAPE_PERIOD: f64 = 0.5;

/// How far a predicted share of cached tokens may be off, in points …
const POINTS: f64 = 3.0;
/// … and a predicted mean time to the first token, as a share of the measured one.
const SHARE: f64 = 0.25;

const SEEDS: u64 = 10;

/// What of the demo's summary is needed.
#[derive(Debug, Deserialize)]
pub struct DemoSummary {
    workload: DemoWorkload,
    calibration: DemoCalibration,
    round_robin: DemoFigures,
    p3sched: DemoFigures,
}

#[derive(Debug, Deserialize)]
struct DemoWorkload {
    seed: u64,
    groups: u64,
    system_tokens: u32,
    user_tokens: u32,
    answer_tokens: u32,
    levels: Vec<DemoLevel>,
}

#[derive(Debug, Deserialize)]
struct DemoLevel {
    concurrency: usize,
    conversations: u64,
}

#[derive(Debug, Deserialize)]
struct DemoCalibration {
    prompt_tokens: u32,
    cached_tokens: u32,
    cold_ms: f64,
    cached_ms: f64,
    token_ms: f64,
}

#[derive(Debug, Deserialize)]
struct DemoFigures {
    cached_token_ratio: f64,
    ttft_mean_ms: f64,
}

/// Predicts what the demo has measured, on a machine of so many cores.
///
/// # Errors
///
/// [`Error::InvalidOption`] if the demo's workload cannot be simulated.
pub fn validate(demo: &DemoSummary, cores: f64) -> Result<Vec<Figure>, Error> {
    let mut figures = Vec::new();
    for (policy, measured) in [("round-robin", &demo.round_robin), ("default", &demo.p3sched)] {
        let runs =
            (0..SEEDS).map(|seed| predict(demo, policy, cores, seed)).collect::<Result<Vec<_>, _>>()?;
        let mean = |of: fn(&Summary) -> f64| Mean::of(&runs.iter().map(of).collect::<Vec<_>>());
        let cached = mean(|summary| summary.cached_ratio * 100.0);
        let waited = mean(|summary| summary.time_to_first_token.mean * 1e3);
        let (real_cached, real_waited) = (measured.cached_token_ratio * 100.0, measured.ttft_mean_ms);
        let points = Mean { value: (cached.value - real_cached).abs(), spread: cached.spread };
        let share = Mean { value: (waited.value / real_waited - 1.0).abs() * 100.0, spread: waited.spread };
        figures.extend([
            Figure::new(
                format!("vllm/{policy}/cached-tokens-off-by"),
                points,
                "points",
                Goal::AtMost(POINTS),
            )
            .detail(format!("{:.1} % predicted, {real_cached:.1} % measured", cached.value)),
            Figure::new(
                format!("vllm/{policy}/mean-time-to-first-token-off-by"),
                share,
                "%",
                Goal::AtMost(SHARE * 100.0),
            )
            .detail(format!("{:.0} ms predicted, {real_waited:.0} ms measured", waited.value)),
        ]);
    }
    Ok(figures)
}

fn predict(demo: &DemoSummary, policy: &str, cores: f64, seed: u64) -> Result<Summary, Error> {
    let level = demo.workload.levels.first();
    let level = level.ok_or_else(|| Error::InvalidOption("the demo's workload has no level".to_owned()))?;
    let calibration = &demo.calibration;
    let timing = Calibration {
        prompt_tokens: calibration.prompt_tokens,
        cached_tokens: calibration.cached_tokens,
        cold_seconds: calibration.cold_ms / 1e3,
        cached_seconds: calibration.cached_ms / 1e3,
        token_seconds: calibration.token_ms / 1e3,
    };
    let engine = EngineParameters {
        name: "vllm-cpu".to_owned(),
        timing: timing.timing(),
        cache_blocks: Some(BLOCKS),
        max_running: MAX_RUNNING,
        ..EngineParameters::preset("t4")?
    };
    let config = SchedulerConfig::preset(policy)?;
    let mut options = Options::new(Policy::of_config(policy, config), &engine, REPLICAS);
    options.seed = seed;
    options.arrivals = Arrivals::Clients { count: level.concurrency };
    options.scrape = Scrape { period: SCRAPE_PERIOD, delay: 0.0 };
    options.machine = Some(Machine { cores, threads: THREADS });
    Ok(Summary::of(&replay(&trace(demo, level), &options, &|_| {})?))
}

/// The demo's prompts in the demo's order; their tokens are those that the engine counted.
fn trace(demo: &DemoSummary, level: &DemoLevel) -> Trace {
    let workload = &demo.workload;
    let prompt_tokens = demo.calibration.prompt_tokens;
    let shared = f64::from(workload.system_tokens) / f64::from(workload.system_tokens + workload.user_tokens);
    let shared_blocks = (shared * f64::from(prompt_tokens)) as u64 / u64::from(BLOCK_TOKENS);
    let own_blocks = u64::from(prompt_tokens / BLOCK_TOKENS).saturating_sub(shared_blocks);
    let mut trace = Trace::new("demo", BLOCK_TOKENS);
    let mut left: Vec<u64> = (0..level.conversations).collect();
    let mut random = ChaCha8Rng::seed_from_u64(workload.seed);
    while !left.is_empty() {
        let conversation = left.swap_remove(random.random_range(0..left.len()));
        let group = conversation % workload.groups.max(1);
        // Contents of different texts are different numbers.
        let system = (0..shared_blocks).map(|block| group << 32 | block);
        let own = (0..own_blocks).map(|block| (conversation + 1) << 48 | block);
        let chain = trace.add_chain(system.chain(own));
        trace.push(TraceRequest {
            prompt_tokens,
            output_tokens: workload.answer_tokens,
            ..TraceRequest::new(0, chain)
        });
    }
    trace
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A demo of a machine on which nothing takes long, with these results.
    fn demo(cached: f64, waited: f64) -> DemoSummary {
        let figures = serde_json::json!({"cached_token_ratio": cached, "ttft_mean_ms": waited});
        let summary = serde_json::json!({
            "workload": {"seed": 20, "groups": 12, "system_tokens": 1400, "user_tokens": 24, "answer_tokens": 8,
                "levels": [{"concurrency": 1, "conversations": 120, "turns": 1}]},
            "calibration": {"prompt_tokens": 1424, "cached_tokens": 1408, "cold_ms": 100.0, "cached_ms": 10.0,
                "token_ms": 1.0},
            "round_robin": figures, "p3sched": figures,
        });
        serde_json::from_value(summary).unwrap()
    }

    #[test]
    fn a_prediction_is_compared_with_what_was_measured() {
        // Of 1424 tokens 43 blocks of 32 are shared; all but twelve requests find them: 0.9 · 1376 / 1424 is 0.87.
        let figures = validate(&demo(0.87, 21.0), 2.0).unwrap();
        let of = |name: &str| figures.iter().find(|figure| figure.name.ends_with(name)).unwrap();
        assert_eq!(of("default/cached-tokens-off-by").ok, Some(true), "{figures:#?}");
        // A tenth of the prompts takes 100 ms, the others compute 48 tokens: about 12 ms.
        assert_eq!(of("default/mean-time-to-first-token-off-by").ok, Some(true), "{figures:#?}");
        let figures = validate(&demo(0.5, 200.0), 2.0).unwrap();
        assert!(figures.iter().all(Figure::missed), "{figures:#?}");
    }
}
