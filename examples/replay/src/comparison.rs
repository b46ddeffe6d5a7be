//! Many replays at once: policies, numbers of replicas and seeds, on as many threads as there are cores.

use rayon::prelude::*;

use crate::Error;
use crate::policy::Policy;
use crate::result::{Mean, Summary};
use crate::simulation::{Options, replay};
use crate::trace::Trace;
use crate::workload::Workload;

/// Where requests come from.
#[derive(Debug, Clone)]
pub enum Input {
    /// A recording: the same requests under every seed.
    Recorded(Trace),
    /// Made up anew for every seed.
    MadeUp(Workload),
}

/// One kind of replay, to be run under several seeds.
#[derive(Debug, Clone)]
pub struct Case {
    /// What is replayed; its seed does not count.
    pub options: Options,
    /// What it is called.
    pub name: String,
}

/// A case with the figures of its runs, one per seed.
#[derive(Debug, Clone)]
pub struct Compared {
    /// The name of the case.
    pub name: String,
    /// The policy, as it was asked for.
    pub policy: String,
    /// How many replicas there were.
    pub replicas: usize,
    /// The figures, by seed.
    pub summaries: Vec<Summary>,
}

impl Compared {
    /// The mean over the seeds of one figure.
    pub fn mean(&self, of: impl Fn(&Summary) -> f64) -> Mean {
        Mean::of(&self.summaries.iter().map(of).collect::<Vec<_>>())
    }
}

impl Input {
    /// The requests under a seed.
    pub fn trace(&self, seed: u64) -> std::borrow::Cow<'_, Trace> {
        match self {
            Self::Recorded(trace) => std::borrow::Cow::Borrowed(trace),
            Self::MadeUp(workload) => std::borrow::Cow::Owned(workload.generate(seed)),
        }
    }
}

/// Replays every case under every seed from 0 on; `progress` is told how many requests have been answered.
///
/// # Errors
///
/// Those of [`replay`].
pub fn compare(
    input: &Input,
    cases: &[Case],
    seeds: u64,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Compared>, Error> {
    let runs: Vec<_> = cases.iter().flat_map(|case| (0..seeds).map(move |seed| (case, seed))).collect();
    let summaries: Vec<Summary> = runs
        .par_iter()
        .map(|(case, seed)| {
            let options = Options { seed: *seed, ..case.options.clone() };
            Ok(Summary::of(&replay(&input.trace(*seed), &options, progress)?))
        })
        .collect::<Result<_, Error>>()?;
    let by_case = summaries.chunks(seeds.max(1) as usize);
    let compared = cases.iter().zip(by_case).map(|(case, summaries)| Compared {
        name: case.name.clone(),
        policy: case.options.policy.name.clone(),
        replicas: case.options.replicas.len(),
        summaries: summaries.to_vec(),
    });
    Ok(compared.collect())
}

/// Cases that differ in their policies alone.
///
/// # Errors
///
/// Those of [`Policy::parse`].
pub fn policies(base: &Options, names: &[&str]) -> Result<Vec<Case>, Error> {
    let case = |name: &&str| {
        let options = Options { policy: Policy::parse(name)?, ..base.clone() };
        Ok(Case { options, name: (*name).to_owned() })
    };
    names.iter().map(case).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineParameters;

    #[test]
    fn every_case_gets_its_own_runs() {
        let input = Input::MadeUp(Workload::parse("shared-prefix:conversations=60").unwrap());
        let engine = EngineParameters::preset("t4").unwrap();
        let base = Options::new(Policy::parse("default").unwrap(), &engine, 2);
        let cases = policies(&base, &["default", "random"]).unwrap();
        let answered = std::sync::atomic::AtomicU64::new(0);
        let count = |done| {
            answered.fetch_add(done, std::sync::atomic::Ordering::Relaxed);
        };
        let compared = compare(&input, &cases, 3, &count).unwrap();
        assert_eq!(answered.into_inner(), 2 * 3 * 60);
        let seeds: Vec<_> =
            compared[1].summaries.iter().map(|summary| (summary.policy.as_str(), summary.seed)).collect();
        assert_eq!(seeds, [("random", 0), ("random", 1), ("random", 2)]);
        assert!(compared[1].mean(|summary| summary.time_to_first_token.mean).spread > 0.0);
    }
}
