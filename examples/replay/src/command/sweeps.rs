//! `replay sweeps`: whether the scheduler's default numbers are good ones.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};
use indicatif::{ProgressBar, ProgressStyle};
use p3sched_replay::report::{meaning_of_sweeps, of_sweeps, sentence, value_text};
use p3sched_replay::sweep::{Swept, defaults, replays, run as sweep};

use super::command_line;

/// Varies every default number of the scheduler's configuration around its default, on several kinds of traffic.
///
/// Says for each whether it is within spread of the best value, or which one is better, and by how much. A page with a
/// chart and a table for each, and the same as JSON, go to a folder.
#[derive(Debug, Parser)]
pub(crate) struct Arguments {
    /// Vary only numbers whose name contains this: gate, weight, metrics
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Runs of every value, which differ in what chance decides
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// Folder for the page and the figures
    #[arg(long, value_name = "FOLDER", default_value = "target/replay/sweeps")]
    output: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    ensure!(arguments.seeds > 1, "--seeds must be 2 or more: `{}`", arguments.seeds);
    let mut sweeps = defaults::all();
    sweeps.retain(|sweep| sweep.name.contains(&arguments.only));
    if sweeps.is_empty() {
        let names: Vec<_> = defaults::all().iter().map(|sweep| sweep.name).collect();
        bail!(
            "no default number is called like `{}`, expected a part of: {}",
            arguments.only,
            names.join(", ")
        );
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} replays, {elapsed}, {eta} left")?;
    let bar = ProgressBar::new(replays(&sweeps, arguments.seeds)).with_style(style);
    let swept = sweep(&sweeps, arguments.seeds, &|done| bar.inc(done))?;
    bar.finish_and_clear();
    println!("{}\n\n{}\n", table(&swept), meaning_of_sweeps(&swept));
    let page = arguments.output.join("index.html");
    of_sweeps(&swept, arguments.seeds, &command_line())?.write(&page)?;
    let figures = arguments.output.join("summary.json");
    let text = serde_json::to_string_pretty(&swept)? + "\n";
    std::fs::write(&figures, text).with_context(|| format!("cannot write `{}`", figures.display()))?;
    println!("report: {}\nsummary: {}", page.display(), figures.display());
    Ok(ExitCode::SUCCESS)
}

fn table(swept: &[Swept]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["default number", "default", "verdict"]);
    for sweep in swept {
        table.add_row([sweep.name.clone(), value_text(sweep.default), sentence(sweep)]);
    }
    table
}
