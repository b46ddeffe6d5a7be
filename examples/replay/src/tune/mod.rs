//! Searches the weights and the load gate for a goal.
//!
//! CMA-ES (Hansen and Ostermeier, 2001; the crate `cmaes`) tries configurations around the one that it starts from and
//! moves to where the better ones are. It goes by ranks alone, so that neither the plateaus on which decisions do not
//! change nor the noise of few seeds mislead it, and it needs few tries for few numbers. A try costs its replays: on the
//! training part, beside the configuration it started from under the same seeds.
//!
//! What comes out is checked on a part that was kept back. It counts as better only if it is so there by more than what
//! chance does to the difference.

mod space;
mod split;

use cmaes::{CMAESOptions, DVector};
use p3sched::SchedulerConfig;
use rayon::prelude::*;

use crate::Error;
use crate::comparison::Input;
use crate::report::format::percent;
use crate::result::Summary;
use crate::simulation::{Options, replay};
use space::Space;
use split::{Episode, Split};

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Goal {
    /// A short time to the first token for all but the slowest 5 %.
    P95Ttft,
    /// Many answers per second; means something where requests wait for answers, as with `--arrivals clients`.
    Throughput,
    /// Many cached prompt tokens.
    HitRate,
}

/// How to search.
#[derive(Debug, Clone, Copy)]
pub struct Search {
    /// What is wanted.
    pub goal: Goal,
    /// How many configurations are tried.
    pub tries: usize,
    /// How many seeds each is tried under, and how many others it is checked with.
    pub seeds: u64,
    /// Where the search draws by chance, the same seed draws the same.
    pub seed: u64,
}

/// What came out of a search.
#[derive(Debug, Clone)]
pub struct Tuned {
    /// The best configuration on the training part.
    pub config: SchedulerConfig,
    /// It beside the start, on the part that was tuned on.
    pub training: Beside,
    /// It beside the start, on the part that was kept back.
    pub held_out: Beside,
    /// How many configurations were tried.
    pub tries: usize,
}

/// Figures before and after, by seed.
#[derive(Debug, Clone)]
pub struct Beside {
    /// Of the configuration that the search started from.
    pub before: Vec<Summary>,
    /// Of the configuration that was found.
    pub after: Vec<Summary>,
}

/// Whether a configuration should be taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// It is so many times better where it was not tuned, less 1.
    Better(f64),
    /// It is not, or by so little that it could be chance; negative if it is worse.
    NotBetter(f64),
}

/// Improvements smaller than this share are not worth a change.
const WORTH: f64 = 0.01;

impl Goal {
    /// How much a figure changed that became better by such a share: `throughput 12.0 % higher`.
    pub fn change(self, gain: f64) -> String {
        let (name, better, worse) = match self {
            Self::P95Ttft => ("time to the first token, p95,", "shorter", "longer"),
            Self::Throughput => ("throughput", "higher", "lower"),
            Self::HitRate => ("share of cached prompt tokens", "larger", "smaller"),
        };
        // A time that becomes better by a factor is divided by it.
        let share = if self == Self::P95Ttft { -gain / (1.0 + gain) } else { gain };
        format!("{name} {} {}", percent(share.abs()), if gain >= 0.0 { better } else { worse })
    }

    /// The figure that the goal is about.
    pub fn value(self, summary: &Summary) -> f64 {
        match self {
            Self::P95Ttft => summary.time_to_first_token.p95,
            Self::Throughput => summary.requests_per_second,
            Self::HitRate => summary.cached_ratio,
        }
    }

    /// Natural logarithm of how many times better `after` is than `before`.
    fn gain(self, before: &Summary, after: &Summary) -> f64 {
        let [before, after] = [before, after].map(|summary| self.value(summary).max(1e-9).ln());
        match self {
            Self::P95Ttft => before - after,
            Self::Throughput | Self::HitRate => after - before,
        }
    }
}

impl Beside {
    /// How many times better it is, less 1, and twice the standard error of that, over the seeds.
    pub fn gain(&self, goal: Goal) -> (f64, f64) {
        let pairs = self.before.iter().zip(&self.after);
        let gains: Vec<_> = pairs.map(|(before, after)| goal.gain(before, after)).collect();
        let count = gains.len().max(1) as f64;
        let mean = gains.iter().sum::<f64>() / count;
        let variance = gains.iter().map(|gain| (gain - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
        (mean.exp_m1(), 2.0 * (variance / count).sqrt())
    }
}

impl Tuned {
    /// Whether the configuration is better where it was not tuned.
    pub fn verdict(&self, goal: Goal) -> Verdict {
        let (gain, error) = self.held_out.gain(goal);
        if gain >= WORTH && gain > error { Verdict::Better(gain) } else { Verdict::NotBetter(gain) }
    }

    /// What was tuned, as YAML for a scheduler's configuration.
    pub fn yaml(&self) -> String {
        space::yaml(&self.config)
    }
}

impl Search {
    /// Replays that a search takes at most.
    pub fn replays(&self) -> u64 {
        // The start on both parts, and what was found on the part that was kept back.
        (self.tries as u64 + 3) * self.seeds
    }
}

/// Searches from the configuration of a policy on; `progress` is told how many replays have ended.
///
/// # Errors
///
/// [`Error::InvalidOption`] if the policy has nothing to tune or the trace is too short to be split, and those of
/// [`replay`].
pub fn tune(
    input: &Input,
    start: &Options,
    search: Search,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Tuned, Error> {
    let space = Space::around(&start.policy.config);
    if space.dimensions() == 0 {
        let message =
            format!("a policy to be tuned must have weights or a load gate: `{}`", start.policy.name);
        return Err(Error::InvalidOption(message));
    }
    let split = Split::new(input, search.seeds)?;
    let run = |episodes: &[Episode], config: &SchedulerConfig| {
        let mut options = start.clone();
        options.policy.config.clone_from(config);
        summaries(episodes, &options, progress)
    };
    let before = run(&split.training, &start.policy.config)?;
    let objective = |point: &DVector<f64>| {
        let after = run(&split.training, &space.config(point.as_slice()));
        // What cannot be replayed is worse than anything that can.
        after.map_or(f64::MAX, |after| -Beside { before: before.clone(), after }.gain(search.goal).0)
    };
    let mut optimiser = CMAESOptions::new(vec![0.0; space.dimensions()], 1.0)
        .max_function_evals(search.tries)
        .seed(search.seed)
        .build(objective)
        .map_err(|error| Error::InvalidOption(format!("the search cannot start: {error:?}")))?;
    while optimiser.next_parallel().is_none() {}
    let best = optimiser.overall_best_individual().map(|best| best.point.as_slice().to_vec());
    let tries = optimiser.function_evals();
    let config = space.config(&best.unwrap_or_default());
    Ok(Tuned {
        training: Beside { after: run(&split.training, &config)?, before },
        held_out: Beside {
            before: run(&split.held_out, &start.policy.config)?,
            after: run(&split.held_out, &config)?,
        },
        config,
        tries,
    })
}

fn summaries(
    episodes: &[Episode],
    options: &Options,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Summary>, Error> {
    let one = |episode: &Episode| {
        let options = Options { seed: episode.seed, ..options.clone() };
        let summary = Summary::of(&replay(&episode.trace, &options, &|_| {})?);
        progress(1);
        Ok(summary)
    };
    episodes.par_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineParameters;
    use crate::policy::Policy;
    use crate::workload::Workload;
    use p3sched::Scheduler;

    fn search(goal: Goal, tries: usize) -> Search {
        Search { goal, tries, seeds: 3, seed: 1 }
    }

    #[test]
    fn weights_that_ignore_prefixes_are_mended_and_the_result_loads() {
        let workload = "shared-prefix:groups=64:conversations=500:rate=40:system_tokens=2000";
        let input = Input::MadeUp(Workload::parse(workload).unwrap());
        let engine =
            EngineParameters { cache_blocks: Some(3000), ..EngineParameters::preset("a100").unwrap() };
        let policy = Policy::parse("default:prefix-cache-scorer=0.05").unwrap();
        let search = search(Goal::HitRate, 40);
        let tuned = tune(&input, &Options::new(policy, &engine, 4), search, &|_| {}).unwrap();
        let Verdict::Better(gain) = tuned.verdict(Goal::HitRate) else { panic!("{:?}", tuned.config) };
        assert!(gain > 0.05, "{gain}");
        let pasted: SchedulerConfig = serde_norway::from_str(&tuned.yaml()).unwrap();
        assert_eq!(
            (pasted.scorers.clone(), pasted.load_gate_seconds),
            (tuned.config.scorers, tuned.config.load_gate_seconds)
        );
        assert!(Scheduler::new(pasted).is_ok());
    }

    #[test]
    fn a_time_that_becomes_twice_as_good_is_half_as_long() {
        assert_eq!(Goal::P95Ttft.change(1.0), "time to the first token, p95, 50.0 % shorter");
        assert_eq!(Goal::P95Ttft.change(-0.2), "time to the first token, p95, 25.0 % longer");
        assert_eq!(Goal::Throughput.change(0.5), "throughput 50.0 % higher");
    }

    #[test]
    fn without_a_difference_nothing_is_better() {
        let input = Input::MadeUp(Workload::parse("shared-prefix:conversations=60:rate=1").unwrap());
        let engine = EngineParameters::preset("a100").unwrap();
        let options = Options::new(Policy::parse("default").unwrap(), &engine, 1);
        let tuned = tune(&input, &options, search(Goal::HitRate, 8), &|_| {}).unwrap();
        assert_eq!(tuned.verdict(Goal::HitRate), Verdict::NotBetter(0.0), "one replica leaves no choice");
        let options = Options { policy: Policy::parse("round-robin").unwrap(), ..options };
        let refused = tune(&input, &options, search(Goal::HitRate, 8), &|_| {}).unwrap_err();
        assert!(refused.to_string().ends_with("must have weights or a load gate: `round-robin`"));
    }
}
