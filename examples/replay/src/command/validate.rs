//! `replay validate`: the simulated engine against the real one.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use p3sched_replay::figure;
use p3sched_replay::validation::{DemoSummary, validate};

/// Predicts what the demo has measured with real engines from two measurements of one of them; fails if it is off.
#[derive(Debug, Parser)]
pub(crate) struct Arguments {
    /// The summary of `demo --engine vllm`
    #[arg(value_name = "FILE")]
    summary: PathBuf,
    /// Cores of the machine that it ran on [default: those of this one]
    #[arg(long)]
    cores: Option<f64>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let file = arguments.summary.display();
    let text =
        std::fs::read_to_string(&arguments.summary).with_context(|| format!("cannot read `{file}`"))?;
    let demo: DemoSummary = serde_json::from_str(&text)
        .with_context(|| format!("not a summary of `demo --engine vllm`: `{file}`"))?;
    let here = || std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
    let figures = validate(&demo, arguments.cores.unwrap_or_else(here))?;
    println!("{}", figure::table(&figures));
    let missed = figures.iter().any(figure::Figure::missed);
    Ok(if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
