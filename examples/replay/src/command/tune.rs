//! `replay tune`: weights and gate for a goal.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use indicatif::{ProgressBar, ProgressStyle};
use p3sched_replay::policy::Policy;
use p3sched_replay::report::format::{number, percent, seconds, spread};
use p3sched_replay::result::{Mean, Summary};
use p3sched_replay::tune::{Beside, Goal, Search, Tuned, Verdict, tune};

use super::command_line;
use super::setup::{Setup, Source};

/// Searches the weights and the load gate for a goal, and prints the configuration to paste.
///
/// Configurations are tried on one part of the traffic: the first 60 % of a trace, or a workload under some seeds. The
/// best is checked on the rest, or under other seeds, beside the configuration that the search started from.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  replay tune --goal p95-ttft --trace conversation_trace.jsonl --replicas 8 --cache-blocks 10000
  replay tune --goal throughput --arrivals clients --clients 256 --workload shared-prefix:groups=150:system_tokens=6000")]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// What is wanted
    #[arg(long, value_enum)]
    goal: Goal,
    /// Where the search starts: a preset, or a policy as `replay run` takes it
    #[arg(long, value_name = "NAME[:KEY=VALUE…]", default_value = "default")]
    policy: String,
    /// Replicas
    #[arg(long, value_name = "COUNT", default_value_t = 8)]
    replicas: usize,
    /// Configurations that are tried
    #[arg(long, default_value_t = 120)]
    tries: usize,
    /// Seeds that each is tried under, and as many others that the best is checked with
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// The same seed makes the same search
    #[arg(long, default_value_t = 0)]
    search_seed: u64,
    /// File for the configuration, if there is a better one
    #[arg(long, value_name = "FILE.yaml")]
    output: Option<PathBuf>,
    #[command(flatten)]
    setup: Setup,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    ensure!(arguments.seeds > 1, "--seeds must be 2 or more: `{}`", arguments.seeds);
    ensure!(arguments.tries > 0, "--tries must be 1 or more: `0`");
    ensure!(
        arguments.replicas > 1,
        "--replicas must be 2 or more, one leaves no choice: `{}`",
        arguments.replicas
    );
    let goal = arguments.goal;
    let search = Search { goal, tries: arguments.tries, seeds: arguments.seeds, seed: arguments.search_seed };
    let start = arguments.setup.options(Policy::parse(&arguments.policy)?, arguments.replicas)?;
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} replays, {elapsed}, {eta} left")?;
    let bar = ProgressBar::new(search.replays()).with_style(style);
    let tuned = tune(&arguments.source.input()?, &start, search, &|done| bar.inc(done))?;
    bar.finish_and_clear();
    println!("{} configurations were tried.\n\n{}\n", tuned.tries, table(&tuned));
    let yaml = format!("# {}\n{}", command_line(), tuned.yaml());
    match tuned.verdict(goal) {
        Verdict::Better(gain) => {
            println!("Where it was not tuned: {}. To be pasted:\n\n{yaml}", goal.change(gain));
            if let Some(file) = &arguments.output {
                std::fs::write(file, yaml).with_context(|| format!("cannot write `{}`", file.display()))?;
                println!("configuration: {}", file.display());
            }
        }
        Verdict::NotBetter(gain) => println!("{}", not_better(&tuned, goal, gain, &arguments.policy)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Why the start should be kept, in words.
fn not_better(tuned: &Tuned, goal: Goal, gain: f64, policy: &str) -> String {
    let (training, _) = tuned.training.gain(goal);
    let (_, error) = tuned.held_out.gain(goal);
    format!(
        "Nothing better than `{policy}` was found: keep it. With the best configuration that was tried\n\
         - where it was tuned: {};\n\
         - where it was not: {}, and chance alone makes ±{}.",
        goal.change(training),
        goal.change(gain),
        percent(error),
    )
}

type RowOf = (&'static str, fn(&Summary) -> f64, fn(f64) -> String);

const ROWS: [RowOf; 5] = [
    ("first token, p95", |summary| summary.time_to_first_token.p95, seconds),
    ("first token, mean", |summary| summary.time_to_first_token.mean, seconds),
    ("requests/s", |summary| summary.requests_per_second, number),
    ("cached", |summary| summary.cached_ratio, percent),
    ("max/mean busy", |summary| summary.max_over_mean_busy, number),
];

fn table(tuned: &Tuned) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    table.set_header(["", "tuned on: before", "after", "held out: before", "after"]);
    for (name, of, write) in ROWS {
        let cells = |beside: &Beside| {
            [&beside.before, &beside.after].map(|summaries| {
                let mean = Mean::of(&summaries.iter().map(of).collect::<Vec<_>>());
                format!("{} {}", write(mean.value), spread(mean)).trim_end().to_owned()
            })
        };
        let values = cells(&tuned.training).into_iter().chain(cells(&tuned.held_out));
        table.add_row(std::iter::once(name.to_owned()).chain(values));
    }
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}
