//! What `epp-server` costs behind a real Envoy: processor time, memory and time per pick of seven loads.
//!
//! Every load is measured in rounds; the median of the rounds counts. Figures of processes are the operating system's.

mod capacity;
mod idle;
mod open_loop;
mod rate;
mod stack;
mod start;
mod streams;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use p3sched_examples::benchmark::figure::Figure;
use std::path::{Path, PathBuf};

/// Measures what `epp-server` costs behind Envoy; prints JSON.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Rounds of each load
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Measure only these loads
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Row>,
    /// Folder for configurations and logs [default: a folder beside the program]
    #[arg(long)]
    output: Option<PathBuf>,
}

/// A load, which is a row of the table of costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Row {
    /// No request, 100 endpoints whose metrics are read every 50 ms
    Idle,
    /// 500 requests a second of 200 tokens each
    Short,
    /// 10 requests a second of 100 000 tokens each
    Long,
    /// Prompts of 220 KB, as many as go through
    Large,
    /// Requests of 4 KB, as many as go through
    Cpu,
    /// 3000 answers as events at the same time
    Streams,
    /// From start to ready
    Start,
}

impl Row {
    async fn measure(self, rounds: usize, folder: &Path) -> Result<Vec<Figure>> {
        match self {
            Self::Idle => idle::measure(rounds, folder).await,
            Self::Short => rate::measure(&rate::SHORT, rounds, folder).await,
            Self::Long => rate::measure(&rate::LONG, rounds, folder).await,
            Self::Large => capacity::measure(&capacity::LARGE, rounds, folder).await,
            Self::Cpu => capacity::measure(&capacity::SMALL, rounds, folder).await,
            Self::Streams => streams::measure(rounds.min(streams::MAX_ROUNDS), folder).await,
            Self::Start => start::measure(rounds, folder).await,
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.rounds > 0, "rounds must be more than 0");
    let folder = match arguments.output {
        Some(folder) => folder,
        None => {
            let program = std::env::current_exe()?;
            program.parent().context("the program has no folder")?.join("epp-bench-output")
        }
    };
    let mut figures = Vec::new();
    for row in Row::value_variants() {
        if !arguments.only.is_empty() && !arguments.only.contains(row) {
            continue;
        }
        let folder = folder.join(format!("{row:?}").to_lowercase());
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
        let measured = row.measure(arguments.rounds, &folder).await.with_context(|| format!("{row:?}"))?;
        for figure in &measured {
            eprintln!(
                "{:<44} {:>10.3} {:<8} ± {:.0} %",
                figure.name,
                figure.value,
                figure.unit,
                figure.spread * 100.0
            );
        }
        figures.extend(measured);
    }
    println!("{}", serde_json::to_string_pretty(&figures)?);
    Ok(())
}
