//! `replay what-if`: how many replicas are needed, and what a policy saves.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use p3sched_replay::comparison::{Case, compare};
use p3sched_replay::figure::{self, Figure, Goal};
use p3sched_replay::policy::Policy;
use p3sched_replay::report::format::{number, percent, seconds, spread};
use p3sched_replay::report::{About, of_answers};
use p3sched_replay::result::Mean;
use p3sched_replay::what_if::{self, Answer};

use super::setup::{Setup, Source, parse_counts};
use super::{command_line, progress_bar};

/// Answers how many replicas are needed, and what routing by prefix saves.
///
/// Every policy with every number of replicas is replayed at the pace of the requests, for the time to the first token,
/// and at full load, for what the replicas can answer at all. Efficiency is that over as many times what one replica
/// answers. The last policy is what the first is compared with.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  replay what-if --workload shared-prefix:groups=150:system_tokens=6000:rate=20 --replicas 1..16 --price 2.5
  replay what-if --trace conversation_trace.jsonl --engine h100 --replicas 2,4,8 --target 1s --report target/replay/what-if.html")]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// Policies, separated by commas
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "default,round-robin")]
    policy: Vec<String>,
    /// Replicas: 8, 3,8,16 or 1..16
    #[arg(long, value_name = "COUNTS", default_value = "1..8")]
    replicas: String,
    /// Time within which 95 of 100 first tokens have to come
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "2s")]
    target: std::time::Duration,
    /// Clients for every replica at full load
    #[arg(long, value_name = "CLIENTS", default_value_t = 32)]
    clients_per_replica: usize,
    /// What a replica costs for an hour, in any currency [default: costs are in hours of a replica]
    #[arg(long, value_name = "PRICE")]
    price: Option<f64>,
    /// Runs of each policy, which differ in what chance decides
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// File for the figures
    #[arg(long, value_name = "FILE", default_value = "target/replay/what-if/summary.json")]
    output: PathBuf,
    /// Page for people
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    #[command(flatten)]
    setup: Setup,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    ensure!(arguments.seeds > 0, "--seeds must be 1 or more: `0`");
    ensure!(arguments.clients_per_replica > 0, "--clients-per-replica must be 1 or more: `0`");
    let input = arguments.source.input()?;
    let asked = asked(arguments)?;
    let all = what_if::cases(&asked, arguments.clients_per_replica);
    let requests = input.trace(0).requests.len() as u64 * u64::from(arguments.setup.repeat());
    let bar = progress_bar(requests * all.len() as u64 * arguments.seeds)?;
    let compared = compare(&input, &all, arguments.seeds, &|done| bar.inc(done))?;
    bar.finish_and_clear();
    let answers = what_if::answers(&asked, &compared);
    let target = arguments.target.as_secs_f64();
    println!(
        "{}\n\n{}\n",
        table(&answers, arguments.price),
        what_if::meaning(&answers, target, arguments.price)
    );
    let command = command_line();
    figure::write(&arguments.output, &figures(&answers, target, arguments.price, &command))?;
    println!("summary: {}", arguments.output.display());
    if let Some(file) = &arguments.report {
        let about = About { traffic: arguments.source.name(), command, price: arguments.price };
        of_answers(&answers, target, &about)?.write(file)?;
        println!("report: {}", file.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn asked(arguments: &Arguments) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for name in &arguments.policy {
        for replicas in parse_counts(&arguments.replicas)? {
            let options = arguments.setup.options(Policy::parse(name)?, replicas)?;
            cases.push(Case { options, name: name.clone() });
        }
    }
    Ok(cases)
}

fn table(answers: &[Answer], price: Option<f64>) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    let cost = if price.is_some() { "cost of a million" } else { "replica-hours of a million" };
    table.set_header([
        "policy",
        "replicas",
        "first token p95",
        "cached",
        "most requests/s",
        "efficiency",
        cost,
    ]);
    for answer in answers {
        let cell = |mean: Mean, write: fn(f64) -> String| {
            format!("{} {}", write(mean.value), spread(mean)).trim_end().to_owned()
        };
        let hours = answer.replica_hours_per_million;
        table.add_row([
            answer.policy.clone(),
            answer.replicas.to_string(),
            cell(answer.first_token_p95, seconds),
            cell(answer.cached_ratio, percent),
            cell(answer.most_requests_per_second, number),
            cell(answer.efficiency, number),
            cell(Mean { value: hours.value * price.unwrap_or(1.0), ..hours }, number),
        ]);
    }
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

fn figures(answers: &[Answer], target: f64, price: Option<f64>, command: &str) -> Vec<Figure> {
    let mut figures = Vec::new();
    let (cost, unit) =
        if price.is_some() { ("cost-of-a-million", "price") } else { ("replica-hours-of-a-million", "h") };
    for answer in answers {
        let hours = answer.replica_hours_per_million;
        let costs = Mean { value: hours.value * price.unwrap_or(1.0), ..hours };
        for (name, mean, unit) in [
            ("first-token-p95", answer.first_token_p95, "s"),
            ("cached", answer.cached_ratio, "share"),
            ("most-requests-per-second", answer.most_requests_per_second, "requests/s"),
            ("efficiency", answer.efficiency, "ratio"),
            (cost, costs, unit),
        ] {
            let name = format!("{}/{}/{name}", answer.policy, answer.replicas);
            figures.push(Figure::new(name, mean, unit, Goal::None).command(command));
        }
    }
    let mut policies: Vec<_> = answers.iter().map(|answer| answer.policy.as_str()).collect();
    policies.dedup();
    for policy in policies {
        let name = format!("{policy}/replicas-needed");
        figures.push(match what_if::needed(answers, policy, target) {
            Some(count) => {
                let mean = Mean { value: count as f64, spread: 0.0 };
                let within = format!("first token within {target} s in 95 of 100 requests");
                Figure::new(name, mean, "replicas", Goal::None).command(command).detail(within)
            }
            None => Figure::left_out(name, "not even the largest number is enough").command(command),
        });
    }
    figures
}
