//! Measures p3sched beside its peers: ratios in one run, rounds of both sides in turn.
//!
//! ```sh
//! cargo run --release --manifest-path core/peer-benches/Cargo.toml -- --output target/bench/summary.json
//! ```

mod cases;
mod machine;
mod measure;
mod peers;
mod report;
mod workload;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use cases::{Outcome, Resident};
use report::Entry;

/// Measures p3sched beside its peers and writes the figures to a summary.
#[derive(Debug, Parser)]
struct Arguments {
    /// Run only the cases whose name contains this
    #[arg(long, value_name = "PATTERN")]
    only: Option<String>,
    /// Fewer and shorter rounds and smaller indexes: whether everything runs, not how fast
    #[arg(long)]
    quick: bool,
    /// Where the summary is; figures of other cases in it are kept
    #[arg(long, value_name = "FILE", default_value = "target/bench/summary.json")]
    output: PathBuf,
    /// Mooncake's conversation trace (JSON lines), for the cases that replay it
    #[arg(long, value_name = "FILE", env = "P3SCHED_MOONCAKE_TRACE")]
    mooncake: Option<PathBuf>,
    /// Print the names of the cases and measure nothing
    #[arg(long)]
    list: bool,
    /// Fill an index in this process and print the bytes that it takes
    #[arg(long, hide = true, value_name = "CASE")]
    resident: Option<Resident>,
}

/// How the cases measure.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Turns that each side gets.
    pub rounds: usize,
    /// Shortest time of a turn: so short that most turns see no other process.
    pub round_time: Duration,
    pub quick: bool,
    pub mooncake: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let settings = Settings {
        rounds: if arguments.quick { 5 } else { 101 },
        round_time: Duration::from_micros(if arguments.quick { 100 } else { 500 }),
        quick: arguments.quick,
        mooncake: arguments.mooncake,
    };
    if let Some(resident) = arguments.resident {
        return resident.print(&settings);
    }
    let pattern = arguments.only.unwrap_or_default();
    let cases: Vec<_> = cases::all().into_iter().filter(|case| case.covers(&pattern)).collect();
    ensure!(!cases.is_empty(), "no case has this in its name (`--list` prints them all): `{pattern}`");
    if arguments.list {
        cases.iter().for_each(|case| println!("{}", case.name));
        return Ok(());
    }

    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")?;
    let progress = ProgressBar::new(cases.len() as u64).with_style(style);
    progress.enable_steady_tick(Duration::from_secs(1));
    let mut entries = Vec::new();
    let mut failed = 0;
    for case in cases {
        progress.set_message(case.name.clone());
        match (case.run)(&settings) {
            Ok(Outcome::Measured(figures)) => {
                let machine = machine::describe();
                let new: Vec<_> = figures.into_iter().map(|figure| Entry::new(figure, &machine)).collect();
                report::merge(&arguments.output, &new)?;
                entries.extend(new);
            }
            Ok(Outcome::Skipped(reason)) => progress.suspend(|| eprintln!("skipped {}: {reason}", case.name)),
            Err(error) => {
                failed += 1;
                progress.suspend(|| eprintln!("failed {}: {error:#}", case.name));
            }
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    println!("{}", report::table(&entries));
    let missed = entries.iter().filter(|entry| entry.missed()).count();
    println!("{} figures, {missed} missed, in {}", entries.len(), arguments.output.display());
    ensure!(failed == 0, "cases that could not run: {failed}");
    Ok(())
}
