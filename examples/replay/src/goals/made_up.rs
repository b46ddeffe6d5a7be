//! Cells on made-up requests.

use super::{Settings, best, first_token, of, options, ranking, ratio};
use crate::Error;
use crate::comparison::{Case, Compared};
use crate::figure::{Figure, Goal};
use crate::policy::Policy;
use crate::result::{Mean, Summary};
use crate::simulation::{Arrivals, Options};
use crate::trace::Trace;

/// One prefix in three is the same: 8 replicas work at nine tenths of what they can.
pub(super) const HOT_PREFIX: &str = "shared-prefix:groups=100:zipf=1.4:system_tokens=6000:question_tokens=600\
    :answer_tokens=128:conversations=6000:rate=50";

/// 150 prefixes of 375 blocks, of which a replica of 12 000 blocks holds some 30.
pub(super) const TIGHT_CACHE: &str = "shared-prefix:groups=150:system_tokens=6000:question_tokens=200:answer_tokens=100\
    :conversations=6000:rate=60";
pub(super) const TIGHT_BLOCKS: Option<usize> = Some(12_000);

const POLICIES: [&str; 16] = [
    "default",
    "kserve-0.15",
    "kserve-basic",
    "kserve-current",
    "latency",
    "throughput",
    "capacity",
    "literal-3-1-1",
    "affinity-token",
    "min-ttft",
    "lmetric",
    "power-of-two",
    "round-robin",
    "least-requests",
    "sglang-cache-aware",
    "dynamo",
];

/// One hot prefix.
pub(super) fn hot_prefix(settings: &Settings<'_>, _: &Trace) -> Result<Vec<Figure>, Error> {
    let compared = settings.compare(HOT_PREFIX, &options("a100", None, 8)?, &POLICIES)?;
    let mut figures = against_best("hot-prefix", &compared, 1.2)?;
    let literal = ratio(of(&compared, "literal-3-1-1")?, of(&compared, "default")?, first_token);
    let name = "hot-prefix/mean-time-to-first-token-of-literal-3-1-1-over-default";
    figures.push(Figure::new(name, literal, "ratio", Goal::AtLeast(10.0)));
    Ok(figures)
}

/// Many prefixes that fit into all caches together.
pub(super) fn tight_cache(settings: &Settings<'_>, _: &Trace) -> Result<Vec<Figure>, Error> {
    let compared = settings.compare(TIGHT_CACHE, &options("a100", TIGHT_BLOCKS, 8)?, &POLICIES)?;
    let mut figures = against_best("tight-cache", &compared, 1.1)?;
    let turns = ratio(of(&compared, "round-robin")?, of(&compared, "default")?, first_token);
    let name = "tight-cache/mean-time-to-first-token-of-round-robin-over-default";
    figures.push(Figure::new(name, turns, "ratio", Goal::AtLeast(20.0)));
    Ok(figures)
}

/// The default's mean time to the first token over the lowest of all other policies.
fn against_best(cell: &str, compared: &[Compared], goal: f64) -> Result<Vec<Figure>, Error> {
    let default = of(compared, "default")?;
    let Some((_, rival)) = best(compared, &["default"], first_token) else { return Ok(Vec::new()) };
    let over_best = ratio(default, of(compared, rival)?, first_token);
    let name = format!("{cell}/mean-time-to-first-token-over-best-other");
    let detail = ranking(compared, first_token, "s");
    Ok(vec![
        Figure::new(name, over_best, "ratio", Goal::AtMost(goal)).detail(detail),
        Figure::new(format!("{cell}/mean-time-to-first-token"), default.mean(first_token), "s", Goal::None),
    ])
}

/// Groups whose prompts are 70 % system prompt, from clients that send when they are answered.
fn scaling_workload(groups: u32, conversations: u32) -> String {
    format!(
        "shared-prefix:groups={groups}:system_tokens=2048:question_tokens=864:answer_tokens=32\
         :conversations={conversations}:rate=1000"
    )
}

/// Three replicas against one.
pub(super) fn scaling(settings: &Settings<'_>, _: &Trace) -> Result<Vec<Figure>, Error> {
    const GROUPS: u32 = 99;
    const CONVERSATIONS: u32 = 9_000;
    const CLIENTS: usize = 96;
    // A replica holds a third of the system prompts of 128 blocks, and what runs.
    let case = |policy: &str, replicas: usize| -> Result<Case, Error> {
        let base = options("t4", Some(7_800), replicas)?;
        let arrivals = Arrivals::Clients { count: CLIENTS * replicas / 3 };
        let name = format!("{policy}/{replicas}");
        Ok(Case { options: Options { arrivals, policy: Policy::parse(policy)?, ..base }, name })
    };
    let many = scaling_workload(GROUPS, CONVERSATIONS);
    let three = settings.compare_cases(&many, &[case("default", 3)?, case("round-robin", 3)?])?;
    let one = settings.compare_cases(&many, &[case("default", 1)?])?;
    let third =
        settings.compare_cases(&scaling_workload(GROUPS / 3, CONVERSATIONS / 3), &[case("default", 1)?])?;
    let per_second = |summary: &Summary| summary.requests_per_second;
    let default = of(&three, "default")?;
    let gain = ratio(default, of(&one, "default")?, per_second);
    let whole = ratio(default, of(&third, "default")?, per_second);
    let efficiency = Mean { value: whole.value / 3.0, spread: whole.spread };
    let cached = |summary: &Summary| summary.cached_ratio;
    let detail = |case: &Compared| {
        format!("{:.2} requests/s, cached {:.3}", case.mean(per_second).value, case.mean(cached).value)
    };
    let one_detail = format!("3: {}; 1: {}", detail(default), detail(of(&one, "default")?));
    let third_detail =
        format!("3: {}; 1 with a third of it: {}", detail(default), detail(of(&third, "default")?));
    Ok(vec![
        Figure::new("scaling/throughput-of-3-over-1", gain, "ratio", Goal::AtLeast(2.8)).detail(one_detail),
        Figure::new("scaling/efficiency", efficiency, "ratio", Goal::AtLeast(0.97)).detail(third_detail),
        Figure::new("scaling/cached-tokens", default.mean(cached), "share", Goal::AtLeast(0.60))
            .detail("70 % of a prompt are shared"),
        Figure::new(
            "scaling/cached-tokens/round-robin",
            of(&three, "round-robin")?.mean(cached),
            "share",
            Goal::None,
        )
        .detail(detail(of(&three, "round-robin")?)),
    ])
}
