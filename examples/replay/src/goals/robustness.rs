//! Cells on what happens when schedulers know less.

use super::made_up::{HOT_PREFIX, TIGHT_BLOCKS, TIGHT_CACHE};
use super::{Settings, first_token, mooncake, of, options, ratio};
use crate::Error;
use crate::comparison::{Case, Compared, Input, compare};
use crate::figure::{Figure, Goal};
use crate::policy::Policy;
use crate::result::{Mean, Replayed};
use crate::simulation::{Options, SchedulerRestart, Schedulers, Scrape, Sharing, replay};
use crate::trace::{SECOND, Trace};
use crate::workload::Workload;

/// The same prefixes at a quarter of the rate, so that what schedulers do not know costs time but does not break all.
const MODERATE: &str = "shared-prefix:groups=150:system_tokens=6000:question_tokens=200:answer_tokens=100\
    :conversations=3000:rate=15";

/// What changes when metrics are up to 5 s old.
pub(super) fn scrape_period(settings: &Settings<'_>, trace: &Trace) -> Result<Vec<Figure>, Error> {
    let made_up = |workload| Workload::parse(workload).map(Input::MadeUp);
    let tight = options("a100", TIGHT_BLOCKS, 8)?;
    let mut figures =
        vec![change_by_period(settings, "tight-cache", &made_up(MODERATE)?, &tight, Goal::AtMost(10.0))?];
    // So close to what eight replicas can do that two seeds differ by more than that.
    let hot = options("a100", None, 8)?;
    figures.push(change_by_period(settings, "hot-prefix", &made_up(HOT_PREFIX)?, &hot, Goal::None)?);
    if trace.requests.is_empty() {
        figures.push(Figure::left_out("scrape-period/mooncake", super::NO_TRACE));
    } else {
        let input = Input::Recorded(trace.clone());
        figures.push(change_by_period(
            settings,
            "mooncake",
            &input,
            &mooncake::fast_options()?,
            Goal::AtMost(10.0),
        )?);
    }
    Ok(figures)
}

fn change_by_period(
    settings: &Settings<'_>,
    name: &str,
    input: &Input,
    base: &Options,
    goal: Goal,
) -> Result<Figure, Error> {
    let case = |period: f64| Case {
        options: Options { scrape: Scrape { period, delay: 0.0 }, ..base.clone() },
        name: format!("{period} s"),
    };
    let compared = compare(input, &[0.05, 0.2, 1.0, 5.0].map(case), settings.seeds, settings.progress)?;
    let means: Vec<_> = compared.iter().map(|case| case.mean(first_token)).collect();
    let values = || means.iter().map(|mean| mean.value);
    let (shortest, longest) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
    let change = (longest - shortest) / values().next().unwrap_or(1.0) * 100.0;
    let spread = means.iter().map(|mean| mean.spread).fold(0.0, f64::max);
    let each = compared.iter().zip(&means).map(|(case, mean)| format!("{} {:.3} s", case.name, mean.value));
    let detail = format!("{}; spread: of the seeds of one period", each.collect::<Vec<_>>().join(", "));
    let name = format!("scrape-period/{name}/change-of-mean-time-to-first-token");
    Ok(Figure::new(name, Mean { value: change, spread }, "%", goal).detail(detail))
}

/// Four schedulers that know nothing of each other, have a prior in common, or know all.
pub(super) fn schedulers(settings: &Settings<'_>, _: &Trace) -> Result<Vec<Figure>, Error> {
    let base = options("a100", TIGHT_BLOCKS, 8)?;
    let case = |name: &str, policy: &str, count, sharing| -> Result<Case, Error> {
        let mut policy = Policy::parse(policy)?;
        name.clone_into(&mut policy.name);
        let schedulers = Schedulers { count, sharing };
        Ok(Case { options: Options { policy, schedulers, ..base.clone() }, name: name.to_owned() })
    };
    let cases = [
        case("one", "default", 1, Sharing::Private)?,
        case("private", "default", 4, Sharing::Private)?,
        case("private-with-prior", "default:rendezvous_prior=1.5", 4, Sharing::Private)?,
        case("shared", "default", 4, Sharing::Shared)?,
    ];
    let compared = settings.compare_cases(MODERATE, &cases)?;
    let one = of(&compared, "one")?;
    let figure = |name: &str, goal| -> Result<Figure, Error> {
        let case = of(&compared, name)?;
        let of_both = |of: fn(&Compared) -> f64| (of(case), of(one));
        let (seconds, of_one) = of_both(|case| case.mean(first_token).value);
        let (cached, cached_of_one) = of_both(|case| case.mean(|summary| summary.cached_ratio).value);
        let detail =
            format!("{seconds:.3} s against {of_one:.3} s, cached {cached:.3} against {cached_of_one:.3}");
        let name = format!("schedulers/4-{name}/mean-time-to-first-token-over-one");
        Ok(Figure::new(name, ratio(case, one, first_token), "ratio", goal).detail(detail))
    };
    Ok(vec![
        figure("private", Goal::None)?,
        figure("private-with-prior", Goal::AtMost(2.7))?,
        figure("shared", Goal::AtMost(1.1))?,
    ])
}

/// How long a scheduler takes to find again what its predecessor knew.
pub(super) fn restart(settings: &Settings<'_>, _: &Trace) -> Result<Vec<Figure>, Error> {
    /// Every prefix has been seen some times by then.
    const AT: f64 = 30.0;
    let workload = Workload::parse(TIGHT_CACHE)?;
    let base = options("a100", TIGHT_BLOCKS, 8)?;
    let mut times = [Vec::new(), Vec::new()];
    let mut firsts = [Vec::new(), Vec::new()];
    for seed in 0..settings.seeds {
        let trace = workload.generate(seed);
        let run = |restarts| replay(&trace, &Options { seed, restarts, ..base.clone() }, settings.progress);
        let steady = cached_by_second(&run(Vec::new())?, AT);
        for (snapshot, (times, firsts)) in [true, false].into_iter().zip(times.iter_mut().zip(&mut firsts)) {
            let cached =
                cached_by_second(&run(vec![SchedulerRestart { scheduler: 0, at: AT, snapshot }])?, AT);
            let is_back = |(now, steady): (&f64, &f64)| *now >= 0.95 * steady;
            let back = cached
                .iter()
                .zip(&steady)
                .position(is_back)
                .map_or(f64::INFINITY, |second| (second + 1) as f64);
            times.push(back);
            firsts.push(cached.first().copied().unwrap_or(0.0));
        }
    }
    let figure = |name: &str, times: &[f64], firsts: &[f64], goal| {
        let detail = format!(
            "cached tokens of requests of a second at least 0.95 of those without a restart; {:.3} in the first second",
            Mean::of(firsts).value
        );
        Figure::new(format!("restart/{name}/hit-rate-is-back-after"), Mean::of(times), "s", goal)
            .detail(detail)
    };
    let ([with, without], [first_with, first_without]) = (&times, &firsts);
    Ok(vec![
        figure("with-snapshot", with, first_with, Goal::AtMost(1.0)),
        figure("without-snapshot", without, first_without, Goal::None),
    ])
}

/// Share of cached tokens among the requests that came in each second from a time on.
fn cached_by_second(replayed: &Replayed, from: f64) -> Vec<f64> {
    let mut sums: Vec<(f64, f64)> = Vec::new();
    for request in &replayed.requests {
        let second = request.arrival as f64 / SECOND - from;
        if second < 0.0 || request.failed {
            continue;
        }
        let at = second as usize;
        if sums.len() <= at {
            sums.resize(at + 1, (0.0, 0.0));
        }
        if let Some((cached, all)) = sums.get_mut(at) {
            *cached += f64::from(request.cached_tokens);
            *all += f64::from(request.prompt_tokens);
        }
    }
    sums.iter().map(|(cached, all)| cached / all.max(1.0)).collect()
}
