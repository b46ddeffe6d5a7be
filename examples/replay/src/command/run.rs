//! `replay run`: policies side by side.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use p3sched_replay::comparison::{Case, Compared, Input, compare};
use p3sched_replay::figure::{self, Figure, Goal};
use p3sched_replay::policy::Policy;
use p3sched_replay::report::{About, Shown, of_policies};
use p3sched_replay::result::Summary;
use rayon::prelude::*;

use super::setup::{Setup, Source, parse_counts};
use super::{command_line, progress_bar};

/// Compares policies on a trace or a made-up workload: a table, and `summary.json` for programs.
///
/// A policy is a name and what it changes: default, or default:prefix-cache-scorer=5:load_gate_seconds=2. A scorer's
/// name sets its weight, anything else is a field of the scheduler's configuration.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  replay run --workload shared-prefix:groups=150:system_tokens=6000:rate=20 --replicas 8 --policy default,round-robin
  replay run --trace conversation_trace.jsonl --cache-blocks 10000 --replicas 3,8,16 --policy default,dynamo
  replay run --trace requests.jsonl --engine h100 --replicas 1..16")]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// Policies, separated by commas; `all` for every one
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "default,round-robin,literal-3-1-1"
    )]
    policy: Vec<String>,
    /// Replicas: 8, 3,8,16 or 1..16
    #[arg(long, value_name = "COUNTS", default_value = "8")]
    replicas: String,
    /// Runs of each policy, which differ in what chance decides
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// File for the figures
    #[arg(long, value_name = "FILE", default_value = "target/replay/run/summary.json")]
    output: PathBuf,
    /// Page for people, with every policy's worst decisions explained; needs nothing else to be seen
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// What a replica costs for an hour, in any currency: the report says what a million requests cost
    #[arg(long, value_name = "PRICE")]
    price: Option<f64>,
    #[command(flatten)]
    setup: Setup,
}

/// A column of the table: its head, its unit in the file, and where it is read.
type Column = (&'static str, &'static str, fn(&Summary) -> f64);

const COLUMNS: [Column; 11] = [
    ("cached", "share", |summary| summary.cached_ratio),
    ("ttft mean", "s", |summary| summary.time_to_first_token.mean),
    ("ttft p50", "s", |summary| summary.time_to_first_token.p50),
    ("ttft p95", "s", |summary| summary.time_to_first_token.p95),
    ("ttft p99", "s", |summary| summary.time_to_first_token.p99),
    ("requests/s", "requests/s", |summary| summary.requests_per_second),
    ("output tokens/s", "tokens/s", |summary| summary.output_tokens_per_second),
    ("max/mean requests", "ratio", |summary| summary.max_over_mean_requests),
    ("max/mean tokens", "ratio", |summary| summary.max_over_mean_prompt_tokens),
    ("max/mean busy", "ratio", |summary| summary.max_over_mean_busy),
    ("failed", "requests", |summary| summary.failed as f64),
];

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    ensure!(arguments.seeds > 0, "--seeds must be 1 or more: `0`");
    let input = arguments.source.input()?;
    let cases = cases(arguments)?;
    let requests = input.trace(0).requests.len() as u64 * u64::from(arguments.setup.repeat());
    let bar = progress_bar(requests * cases.len() as u64 * arguments.seeds)?;
    let compared = compare(&input, &cases, arguments.seeds, &|done| bar.inc(done))?;
    bar.finish_and_clear();
    println!("{}", table(&compared));
    let command = command_line();
    figure::write(&arguments.output, &figures(&compared, &command))?;
    println!("summary: {}", arguments.output.display());
    if let Some(file) = &arguments.report {
        write_report(file, arguments, &input, cases, compared, command)?;
        println!("report: {}", file.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn cases(arguments: &Arguments) -> Result<Vec<Case>> {
    let all: Vec<_> = Policy::names().map(str::to_owned).collect();
    let names = if arguments.policy == ["all"] { &all } else { &arguments.policy };
    let mut cases = Vec::new();
    for replicas in parse_counts(&arguments.replicas)? {
        for name in names {
            let options = arguments.setup.options(Policy::parse(name)?, replicas)?;
            cases.push(Case { options, name: format!("{name}/{replicas}") });
        }
    }
    Ok(cases)
}

fn write_report(
    file: &Path,
    arguments: &Arguments,
    input: &Input,
    cases: Vec<Case>,
    compared: Vec<Compared>,
    command: String,
) -> Result<()> {
    let cases: Vec<_> = cases.into_iter().zip(compared).collect();
    let shown: Vec<_> = cases
        .into_par_iter()
        .map(|(case, compared)| Shown::new(input, &case, compared))
        .collect::<Result<_, _>>()?;
    let about = About { traffic: arguments.source.name(), command, price: arguments.price };
    Ok(of_policies(&shown, &about)?.write(file)?)
}

fn table(compared: &[Compared]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    let heads = COLUMNS.iter().map(|(head, ..)| (*head).to_owned());
    table.set_header(["policy", "replicas"].map(str::to_owned).into_iter().chain(heads));
    for case in compared {
        let values = COLUMNS.iter().map(|&(_, unit, of)| {
            let mean = case.mean(of);
            let value = match unit {
                "share" => format!("{:.2} %", mean.value * 100.0),
                _ if mean.value >= 100.0 => format!("{:.0}", mean.value),
                _ => format!("{:.3}", mean.value),
            };
            if mean.spread > 0.0005 { format!("{value} ±{:.0} %", mean.spread * 50.0) } else { value }
        });
        table.add_row([case.policy.clone(), case.replicas.to_string()].into_iter().chain(values));
    }
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

fn figures(compared: &[Compared], command: &str) -> Vec<Figure> {
    let figures = compared.iter().flat_map(|case| {
        COLUMNS.iter().map(move |&(head, unit, of)| {
            let name = format!("{}/{}", case.name, head.replace(' ', "-"));
            Figure::new(name, case.mean(of), unit, Goal::None).command(command)
        })
    });
    figures.collect()
}
