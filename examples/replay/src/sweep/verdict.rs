//! What a sweep says of a default.

use serde::Serialize;

use super::{Outcome, Tried};

/// Differences of the mean time to the first token up to this share are none.
const NONE: f64 = 0.005;
/// A better value has to be so by this share, all scenarios together.
const WORTH: f64 = 0.02;

/// What follows from the results of all values.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// No value changes anything.
    NoDifference,
    /// No other value is better by more than chance.
    WithinSpread,
    /// This value is better in all, but worse in some scenario.
    TradeOff {
        /// The value; `None` is `null`.
        value: Option<f64>,
        /// How much shorter the mean time to the first token is, all scenarios together.
        shorter: f64,
        /// Where it is worse.
        worse_in: Vec<&'static str>,
    },
    /// This value is better in some scenario, and worse in none.
    Better {
        /// The value; `None` is `null`.
        value: Option<f64>,
        /// How much shorter the mean time to the first token is, all scenarios together.
        shorter: f64,
    },
}

impl Verdict {
    /// What follows for this default.
    pub fn of(tried: &[Tried], default: Option<f64>) -> Self {
        let others: Vec<_> = tried.iter().filter(|tried| tried.value != default).collect();
        let differs = |outcome: &Outcome| outcome.longer.abs() > NONE;
        if !others.iter().flat_map(|tried| &tried.results).any(differs) {
            return Self::NoDifference;
        }
        let candidates = others.iter().filter(|tried| {
            let (longer, error) = together(&tried.results);
            -longer > WORTH.max(error)
        });
        let mut candidates: Vec<_> = candidates.map(|tried| (tried, worse_in(&tried.results))).collect();
        // A value that is worse nowhere goes before any that is.
        candidates.sort_by(|(a, worse_a), (b, worse_b)| {
            let order = worse_a.is_empty().cmp(&worse_b.is_empty()).reverse();
            order.then(together(&a.results).0.total_cmp(&together(&b.results).0))
        });
        let Some((best, worse_in)) = candidates.into_iter().next() else { return Self::WithinSpread };
        let (value, shorter) = (best.value, -together(&best.results).0.exp_m1());
        if worse_in.is_empty() {
            Self::Better { value, shorter }
        } else {
            Self::TradeOff { value, shorter, worse_in }
        }
    }
}

/// The mean over the scenarios, and how sure it is.
fn together(results: &[Outcome]) -> (f64, f64) {
    let count = results.len().max(1) as f64;
    let longer = results.iter().map(|outcome| outcome.longer).sum::<f64>() / count;
    let error = results.iter().map(|outcome| outcome.error.powi(2)).sum::<f64>().sqrt() / count;
    (longer, error)
}

/// Scenarios in which the value is worse by more than chance.
fn worse_in(results: &[Outcome]) -> Vec<&'static str> {
    let worse = results.iter().filter(|outcome| outcome.longer > NONE.max(outcome.error));
    worse.map(|outcome| outcome.scenario).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(value: f64, longer: &[(f64, f64)]) -> Tried {
        let outcome = |(scenario, &(longer, error)): (&'static str, &(f64, f64))| Outcome {
            scenario,
            mean_time_to_first_token: 1.0,
            p99_time_to_first_token: 1.0,
            cached_ratio: 0.5,
            longer,
            error,
        };
        Tried { value: Some(value), results: ["a", "b"].into_iter().zip(longer).map(outcome).collect() }
    }

    #[test]
    fn a_default_is_judged_by_all_scenarios_and_by_chance() {
        let default = || tried(1.0, &[(0.0, 0.0), (0.0, 0.0)]);
        let verdict = |other: Tried| Verdict::of(&[default(), other], Some(1.0));
        assert_eq!(verdict(tried(2.0, &[(0.001, 0.0), (-0.004, 0.0)])), Verdict::NoDifference);
        assert_eq!(verdict(tried(2.0, &[(-0.3, 0.9), (-0.1, 0.2)])), Verdict::WithinSpread, "chance");
        assert_eq!(verdict(tried(2.0, &[(0.3, 0.01), (0.1, 0.01)])), Verdict::WithinSpread, "worse");
        let Verdict::TradeOff { worse_in, .. } = verdict(tried(2.0, &[(-0.3, 0.01), (0.1, 0.01)])) else {
            panic!()
        };
        assert_eq!(worse_in, ["b"]);
        let Verdict::Better { value, shorter } = verdict(tried(2.0, &[(-0.2, 0.01), (0.004, 0.01)])) else {
            panic!()
        };
        assert_eq!(value, Some(2.0));
        assert!((shorter - (1.0 - (-0.098_f64).exp())).abs() < 1e-9, "{shorter}");
    }
}
