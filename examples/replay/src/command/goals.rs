//! `replay goals`: everything that the scheduler's default has to reach.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use p3sched_replay::figure;
use p3sched_replay::goals::{Settings, measure};
use p3sched_replay::trace::Trace;

/// Measures everything that the scheduler's default has to reach: a table, and `summary.json` for programs.
///
/// Without the trace the cells that need it are left out. It is FAST25-release/traces/conversation_trace.jsonl of
/// <https://github.com/kvcache-ai/Mooncake>.
#[derive(Debug, Parser)]
pub(crate) struct Arguments {
    /// Mooncake's conversation trace
    #[arg(long, value_name = "FILE", env = "MOONCAKE_TRACE")]
    trace: Option<PathBuf>,
    /// Runs of every case, which differ in what chance decides
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// Measure only what begins like this: mooncake, hot-prefix, tight-cache, scaling, scrape-period, schedulers, restart
    #[arg(long, value_name = "CELL", default_value = "")]
    only: String,
    /// File for the figures
    #[arg(long, value_name = "FILE", default_value = "target/replay/summary.json")]
    output: PathBuf,
    /// Fail if a goal is missed
    #[arg(long)]
    strict: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    ensure!(arguments.seeds > 0, "--seeds must be 1 or more: `0`");
    let mooncake = arguments.trace.as_deref().map(Trace::read).transpose()?;
    let style = ProgressStyle::with_template("{spinner} {msg:<20} {human_pos} requests, {elapsed}")?;
    let bar = ProgressBar::new_spinner().with_style(style);
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    let settings = Settings { mooncake, seeds: arguments.seeds, progress: &|done| bar.inc(done) };
    let figures = measure(&settings, &arguments.only, &|cell| bar.set_message(cell.to_owned()))?;
    bar.finish_and_clear();
    println!("{}", figure::table(&figures));
    figure::write(&arguments.output, &figures)?;
    println!("summary: {}", arguments.output.display());
    let missed = figures.iter().filter(|figure| figure.missed()).count();
    if missed > 0 {
        eprintln!("goals that were missed: {missed}");
    }
    Ok(if missed > 0 && arguments.strict { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
