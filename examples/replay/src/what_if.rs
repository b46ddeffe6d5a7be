//! How many replicas are needed, and what a policy saves.
//!
//! Every policy with every number of replicas is replayed twice: at the pace of the requests, which shows how long users
//! wait, and at full load, where clients send their next request when the last one is answered, which shows how many
//! requests the replicas can answer at all. One replica at full load is what the efficiency is measured against:
//!
//! ```text
//! efficiency = requests per second of n replicas / (n · requests per second of one replica)
//! ```
//!
//! 1 is n times as much from n replicas; more than 1 comes from caches that together hold what one of them cannot.

use crate::comparison::{Case, Compared};
use crate::cost::per_million_requests;
use crate::result::{Mean, Summary};
use crate::simulation::{Arrivals, Options};

/// What so many replicas give under a policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The policy, as it was asked for.
    pub policy: String,
    /// How many replicas.
    pub replicas: usize,
    /// 95th percentile of the seconds to the first token, at the pace of the requests.
    pub first_token_p95: Mean,
    /// Prompt tokens found in the caches as a share of all, at the pace of the requests.
    pub cached_ratio: Mean,
    /// Requests per second at full load.
    pub most_requests_per_second: Mean,
    /// That, over as many times what one replica answers.
    pub efficiency: Mean,
    /// Hours of one replica that a million requests take at full load.
    pub replica_hours_per_million: Mean,
}

/// All that has to be replayed to answer for these cases: they themselves, they at full load with so many clients per
/// replica, and each of their policies with one replica at full load.
pub fn cases(asked: &[Case], clients_per_replica: usize) -> Vec<Case> {
    let full = |case: &Case| {
        let count = clients_per_replica * case.options.replicas.len();
        let options = Options { arrivals: Arrivals::Clients { count }, ..case.options.clone() };
        Case { options, name: name(&case.options, Load::Full) }
    };
    let single = |case: &Case| {
        let mut options = case.options.clone();
        options.replicas.truncate(1);
        full(&Case { options, name: String::new() })
    };
    let paced = asked
        .iter()
        .map(|case| Case { options: case.options.clone(), name: name(&case.options, Load::Paced) });
    let mut all: Vec<_> = paced.chain(asked.iter().map(full)).collect();
    for case in asked.iter().map(single) {
        if all.iter().all(|known| known.name != case.name) {
            all.push(case);
        }
    }
    all
}

/// The answers for the cases that were asked, from the replays of all [`cases`]; those that lack one are left out.
pub fn answers(asked: &[Case], compared: &[Compared]) -> Vec<Answer> {
    let find = |name: &str| compared.iter().find(|compared| compared.name == name);
    let answer = |case: &Case| {
        let replicas = case.options.replicas.len();
        let paced = find(&name(&case.options, Load::Paced))?;
        let full = find(&name(&case.options, Load::Full))?;
        let single = find(&name_of(&case.options.policy.name, 1, Load::Full))?;
        let efficiencies: Vec<_> = (full.summaries.iter().zip(&single.summaries))
            .map(|(all, one)| all.requests_per_second / (replicas as f64 * one.requests_per_second))
            .collect();
        let hours = |summary: &Summary| per_million_requests(replicas, 1.0, summary.requests_per_second);
        Some(Answer {
            policy: case.options.policy.name.clone(),
            replicas,
            first_token_p95: paced.mean(|summary| summary.time_to_first_token.p95),
            cached_ratio: paced.mean(|summary| summary.cached_ratio),
            most_requests_per_second: full.mean(|summary| summary.requests_per_second),
            efficiency: Mean::of(&efficiencies),
            replica_hours_per_million: full.mean(hours),
        })
    };
    asked.iter().filter_map(answer).collect()
}

/// The fewest replicas from which on the 95th percentile of the time to the first token is within `seconds`; `None` if not
/// even the largest number asked for is enough.
pub fn needed(answers: &[Answer], policy: &str, seconds: f64) -> Option<usize> {
    let mut own: Vec<_> = answers.iter().filter(|answer| answer.policy == policy).collect();
    own.sort_by_key(|answer| std::cmp::Reverse(answer.replicas));
    let enough = own.into_iter().take_while(|answer| answer.first_token_p95.value <= seconds);
    enough.last().map(|answer| answer.replicas)
}

/// What is needed and saved, in words: the first policy beside the last.
pub fn meaning(answers: &[Answer], seconds: f64, price: Option<f64>) -> String {
    let (Some(first), Some(last)) = (answers.first(), answers.last()) else { return String::new() };
    let cost = |replicas: usize| match price {
        Some(price) => format!(" ({:.2} an hour)", price * replicas as f64),
        None => String::new(),
    };
    let most = answers.iter().map(|answer| answer.replicas).max().unwrap_or(0);
    let words = |policy: &str| match needed(answers, policy, seconds) {
        Some(1) => format!("{policy} needs 1 replica{}", cost(1)),
        Some(count) => format!("{policy} needs {count} replicas{}", cost(count)),
        None => format!("{policy} needs more than {most} replicas"),
    };
    let within = format!("For a first token within {seconds} s in 95 of 100 requests, ");
    if first.policy == last.policy {
        return format!("{within}{}.", words(&first.policy));
    }
    let [ours, theirs] = [first, last].map(|answer| needed(answers, &answer.policy, seconds));
    let saved = match (ours, theirs) {
        (Some(ours), Some(theirs)) if ours < theirs => {
            format!(
                " {} saves {:.0} % of the replicas.",
                first.policy,
                (1.0 - ours as f64 / theirs as f64) * 100.0
            )
        }
        (Some(ours), Some(theirs)) if ours == theirs => format!(" {} saves no replica here.", first.policy),
        _ => String::new(),
    };
    format!("{within}{}, {}.{saved}", words(&first.policy), words(&last.policy))
}

#[derive(Clone, Copy)]
enum Load {
    Paced,
    Full,
}

fn name(options: &Options, load: Load) -> String {
    name_of(&options.policy.name, options.replicas.len(), load)
}

fn name_of(policy: &str, replicas: usize, load: Load) -> String {
    match load {
        Load::Paced => format!("{policy}/{replicas}"),
        Load::Full => format!("{policy}/{replicas}/full"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineParameters;
    use crate::policy::Policy;
    use crate::result::{Replayed, RequestResult};

    fn case(policy: &str, replicas: usize) -> Case {
        let engine = EngineParameters::preset("t4").unwrap();
        let options = Options::new(Policy::parse(policy).unwrap(), &engine, replicas);
        Case { options, name: String::new() }
    }

    /// So many requests that come at once; the last one ends after these seconds, each first token comes after `wait`.
    fn compared(name: &str, runs: &[(usize, f64)], wait: f64) -> Compared {
        let nanoseconds = |seconds: f64| (seconds * 1e9) as u64;
        let run = |&(count, seconds): &(usize, f64)| {
            let request = RequestResult {
                first_token: nanoseconds(wait),
                end: nanoseconds(seconds),
                prompt_tokens: 100,
                cached_tokens: 25,
                output_tokens: 1,
                ..RequestResult::default()
            };
            Summary::of(&Replayed {
                policy: String::new(),
                seed: 0,
                requests: vec![request; count],
                samples: Vec::new(),
                replicas: Vec::new(),
                decisions: Vec::new(),
            })
        };
        let summaries = runs.iter().map(run).collect();
        Compared { name: name.to_owned(), policy: String::new(), replicas: 0, summaries }
    }

    #[test]
    fn efficiency_is_measured_against_one_replica_of_the_same_run() {
        let replays = [
            compared("default/4", &[(100, 50.0), (100, 50.0)], 0.5),
            // 40 and 60 requests per second …
            compared("default/4/full", &[(400, 10.0), (600, 10.0)], 3.0),
            // … beside 12.5 and 15 of one replica.
            compared("default/1/full", &[(125, 10.0), (150, 10.0)], 3.0),
        ];
        let answers = answers(&[case("default", 4)], &replays);
        let [answer] = answers.as_slice() else { panic!("{answers:?}") };
        // 40 / (4 · 12.5) = 0.8 and 60 / (4 · 15) = 1.0.
        assert!((answer.efficiency.value - 0.9).abs() < 1e-9, "{answer:?}");
        assert!((answer.most_requests_per_second.value - 50.0).abs() < 1e-9);
        assert_eq!((answer.first_token_p95.value, answer.cached_ratio.value), (0.5, 0.25));
        // 4 · 10⁶ / (3600 · 40) and 4 · 10⁶ / (3600 · 60) hours.
        let hours = (4e6 / 144_000.0 + 4e6 / 216_000.0) / 2.0;
        assert!((answer.replica_hours_per_million.value - hours).abs() < 1e-9);
    }

    #[test]
    fn one_replica_is_replayed_once_even_if_it_was_asked_for() {
        let names = |asked: &[Case]| cases(asked, 8).into_iter().map(|case| case.name).collect::<Vec<_>>();
        assert_eq!(names(&[case("default", 1)]), ["default/1", "default/1/full"]);
        let asked = [case("default", 4), case("random", 4)];
        assert_eq!(
            names(&asked),
            ["default/4", "random/4", "default/4/full", "random/4/full", "default/1/full", "random/1/full"]
        );
        let full = cases(&asked, 8).into_iter().find(|case| case.name == "random/4/full").unwrap();
        assert_eq!(full.options.arrivals, Arrivals::Clients { count: 32 });
    }

    #[test]
    fn what_is_needed_holds_for_more_replicas_too() {
        let answer = |policy: &str, replicas, p95| Answer {
            policy: policy.to_owned(),
            replicas,
            first_token_p95: Mean { value: p95, spread: 0.0 },
            cached_ratio: Mean::default(),
            most_requests_per_second: Mean::default(),
            efficiency: Mean::default(),
            replica_hours_per_million: Mean::default(),
        };
        let all = [
            answer("default", 1, 9.0),
            answer("default", 2, 1.0),
            answer("default", 3, 0.5),
            answer("random", 1, 90.0),
            answer("random", 2, 1.9),
            answer("random", 3, 2.1),
            answer("random", 4, 1.5),
        ];
        assert_eq!(needed(&all, "default", 2.0), Some(2));
        assert_eq!(needed(&all, "random", 2.0), Some(4), "with 3 it is too long");
        assert_eq!(needed(&all, "random", 1.0), None);
        let words = meaning(&all, 2.0, Some(2.5));
        assert!(
            words.contains(
                "default needs 2 replicas (5.00 an hour), random needs 4 replicas (10.00 an hour)."
            ),
            "{words}"
        );
        assert!(words.ends_with("default saves 50 % of the replicas."), "{words}");
    }
}
