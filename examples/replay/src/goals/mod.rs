//! What the scheduler's default has to reach, each as [`Figure`]s that one command measures again.
//!
//! | cell | what it replays |
//! |---|---|
//! | `mooncake/cache` | Mooncake's conversations on 3, 8 and 16 replicas of 10 000 blocks: cached tokens, balance |
//! | `mooncake/fast` | the same 1.5 times as fast on 8: time to the first token of every policy |
//! | `mooncake/million` | a million requests on one core |
//! | `hot-prefix` | one prefix that most requests share (Zipf 1.4), 8 replicas |
//! | `tight-cache` | 150 prefixes of 6000 tokens that fit into 8 caches together and not into each |
//! | `scaling` | 3 replicas against 1 |
//! | `scrape-period` | metrics 50 ms to 5 s old |
//! | `schedulers` | 4 schedulers with private and with shared indexes |
//! | `restart` | a scheduler that restarts, with and without a snapshot |
//!
//! Mooncake's cells run on `4xh100-70b`, a node and a model of the size that the trace was recorded with, but for
//! `mooncake/cache`, which is on `h100`, so that three replicas keep up with the trace; the others on `a100` but for
//! `scaling`, which is on `t4`.

mod made_up;
mod mooncake;
mod robustness;

use crate::Error;
use crate::comparison::{Case, Compared, Input, compare};
use crate::engine::EngineParameters;
use crate::figure::Figure;
use crate::policy::Policy;
use crate::result::{Mean, Summary};
use crate::simulation::Options;
use crate::trace::Trace;
use crate::workload::Workload;

/// How goals are measured.
pub struct Settings<'a> {
    /// Mooncake's conversation trace; without it the cells that need it are left out.
    pub mooncake: Option<Trace>,
    /// Runs of every case.
    pub seeds: u64,
    /// Told how many requests have been answered.
    pub progress: &'a (dyn Fn(u64) + Sync),
}

/// Why a cell is left out.
const NO_TRACE: &str = "name the trace with --trace or MOONCAKE_TRACE: conversation_trace.jsonl of \
                        https://github.com/kvcache-ai/Mooncake";

type Measure = fn(&Settings<'_>, &Trace) -> Result<Vec<Figure>, Error>;

/// A cell and how it is measured.
struct Cell {
    name: &'static str,
    needs_mooncake: bool,
    measure: Measure,
}

const CELLS: [Cell; 9] = [
    // Alone first, so that its time is that of one core.
    Cell { name: "mooncake/million", needs_mooncake: true, measure: mooncake::million },
    Cell { name: "mooncake/cache", needs_mooncake: true, measure: mooncake::cache },
    Cell { name: "mooncake/fast", needs_mooncake: true, measure: mooncake::fast },
    Cell { name: "hot-prefix", needs_mooncake: false, measure: made_up::hot_prefix },
    Cell { name: "tight-cache", needs_mooncake: false, measure: made_up::tight_cache },
    Cell { name: "scaling", needs_mooncake: false, measure: made_up::scaling },
    Cell { name: "scrape-period", needs_mooncake: false, measure: robustness::scrape_period },
    Cell { name: "schedulers", needs_mooncake: false, measure: robustness::schedulers },
    Cell { name: "restart", needs_mooncake: false, measure: robustness::restart },
];

/// Names of all cells.
pub fn names() -> impl Iterator<Item = &'static str> {
    CELLS.iter().map(|cell| cell.name)
}

/// Measures the cells whose names begin with `only`; all if it is empty. `began` is told each one's name.
///
/// # Errors
///
/// [`Error::InvalidOption`] if no cell is called so.
pub fn measure(settings: &Settings<'_>, only: &str, began: &dyn Fn(&str)) -> Result<Vec<Figure>, Error> {
    let chosen: Vec<_> = CELLS.iter().filter(|cell| cell.name.starts_with(only)).collect();
    if chosen.is_empty() {
        return Err(Error::unknown("cell", only, &names().collect::<Vec<_>>()));
    }
    let nothing = Trace::new("", 16);
    let mut figures = Vec::new();
    for cell in chosen {
        began(cell.name);
        let command = format!("cargo run --release -p p3sched-replay -- goals --only {}", cell.name);
        let measured = match (&settings.mooncake, cell.needs_mooncake) {
            (None, true) => {
                vec![Figure::left_out(cell.name, NO_TRACE)]
            }
            (trace, _) => (cell.measure)(settings, trace.as_ref().unwrap_or(&nothing))?,
        };
        figures.extend(measured.into_iter().map(|figure| figure.command(command.clone())));
    }
    Ok(figures)
}

impl Settings<'_> {
    /// Replays made-up requests with equal engines under policies.
    fn compare(&self, workload: &str, base: &Options, policies: &[&str]) -> Result<Vec<Compared>, Error> {
        let input = Input::MadeUp(Workload::parse(workload)?);
        compare(&input, &crate::comparison::policies(base, policies)?, self.seeds, self.progress)
    }

    /// Replays made-up requests with options that differ in anything.
    fn compare_cases(&self, workload: &str, cases: &[Case]) -> Result<Vec<Compared>, Error> {
        compare(&Input::MadeUp(Workload::parse(workload)?), cases, self.seeds, self.progress)
    }
}

/// The default policy on so many engines of a preset.
fn options(engine: &str, cache_blocks: Option<usize>, replicas: usize) -> Result<Options, Error> {
    let engine = EngineParameters { cache_blocks, ..EngineParameters::preset(engine)? };
    Ok(Options::new(Policy::parse("default")?, &engine, replicas))
}

fn first_token(summary: &Summary) -> f64 {
    summary.time_to_first_token.mean
}

/// The compared case of this policy; of several, the first.
fn of<'a>(compared: &'a [Compared], policy: &str) -> Result<&'a Compared, Error> {
    let found = compared.iter().find(|case| case.policy == policy);
    found.ok_or_else(|| Error::InvalidOption(format!("a policy that was not compared: `{policy}`")))
}

/// The lowest mean of all cases but those of some policies, and whose it is.
fn best<'a>(compared: &'a [Compared], but: &[&str], value: fn(&Summary) -> f64) -> Option<(f64, &'a str)> {
    let others = compared.iter().filter(|case| !but.contains(&case.policy.as_str()));
    others.map(|case| (case.mean(value).value, case.policy.as_str())).min_by(|(a, _), (b, _)| a.total_cmp(b))
}

/// Seed by seed, one case's value over another's.
fn ratio(case: &Compared, over: &Compared, value: fn(&Summary) -> f64) -> Mean {
    let pairs = case.summaries.iter().zip(&over.summaries);
    Mean::of(&pairs.map(|(case, over)| value(case) / value(over)).collect::<Vec<_>>())
}

/// One value of all cases, the smallest first.
fn ranking(compared: &[Compared], value: fn(&Summary) -> f64, unit: &str) -> String {
    let mut ranked: Vec<_> = compared.iter().map(|case| (case.mean(value).value, &case.policy)).collect();
    ranked.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let ranked = ranked.iter().map(|(value, policy)| format!("{policy} {value:.3}"));
    format!("{} {unit}", ranked.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_trace_its_cells_are_left_out() {
        let settings = Settings { mooncake: None, seeds: 1, progress: &|_| {} };
        let figures = measure(&settings, "mooncake", &|_| {}).unwrap();
        assert_eq!(figures.len(), 3);
        assert!(figures.iter().all(|figure| figure.value.is_none() && figure.detail.contains("--trace")));
        assert!(figures[0].command.ends_with("goals --only mooncake/million"));
        assert!(measure(&settings, "moncake", &|_| {}).is_err());
    }
}
