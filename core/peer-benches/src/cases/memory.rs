//! Memory by resident set, each case in a process of its own.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use p3sched::prefix_index::PrefixIndex;

use super::{Case, events};
use crate::report::{Figure, Goal};
use crate::workload::path;
use crate::{Settings, machine};

const CHAIN: usize = 128;
const HOLDERS: u32 = 64;
const CHURN_ROUNDS: u64 = 4;

/// What the process fills an index with.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Resident {
    /// Chains that one endpoint each holds, then as many again several times over at the same capacity.
    Unique,
    /// Chains that one endpoint holds, then all the others too.
    Shared,
    /// The same, told by KV events.
    Events,
}

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("memory/picks/unique-chains", unique),
        Case::new("memory/picks/shared-chains", |settings| {
            let (_, further) = holders(settings, Resident::Shared)?;
            Ok(vec![Figure {
                name: "memory/picks/shared-chains".to_owned(),
                goal: Goal::AtMost(0.5),
                ..further
            }])
        }),
        Case::new("memory/events", |settings| {
            let (one, further) = holders(settings, Resident::Events)?;
            Ok(vec![
                Figure { name: "memory/events/unique-chains".to_owned(), goal: Goal::AtMost(32.0), ..one },
                Figure { name: "memory/events/shared-chains".to_owned(), goal: Goal::AtMost(1.0), ..further },
            ])
        }),
    ]
}

fn unique(settings: &Settings) -> Result<Vec<Figure>> {
    let steps = in_fresh_process(settings, Resident::Unique)?;
    let blocks = (chains(settings) * CHAIN as u64) as f64;
    let (filled, churned) = (steps[0], steps[CHURN_ROUNDS as usize]);
    let bytes = |bytes: f64| format!("{:.1} bytes per block", bytes / blocks);
    let figure = |name: &str, value, unit, goal, detail| Figure {
        name: format!("memory/picks/unique-chains/{name}"),
        value,
        unit,
        goal,
        spread: 0.0,
        detail,
    };
    let millions = format!("{:.1} M blocks", blocks / 1e6);
    let grown = format!("{} before, {} after 4 rounds", bytes(filled), bytes(churned));
    Ok(vec![
        figure("filled", filled / blocks, "bytes per block", Goal::AtMost(12.0), millions),
        figure("churned", churned / filled, "× when filled", Goal::AtMost(1.1), grown),
    ])
}

/// What a block costs that one endpoint holds, and what each further holder of it costs.
fn holders(settings: &Settings, resident: Resident) -> Result<(Figure, Figure)> {
    let steps = in_fresh_process(settings, resident)?;
    let blocks = (chains(settings) * CHAIN as u64) as f64;
    let (one, all) = (steps[0], steps[1]);
    let figure = |value, unit| Figure {
        name: String::new(),
        value,
        unit,
        goal: Goal::None,
        spread: 0.0,
        detail: format!(
            "{:.1} M blocks: {:.0} MB held by one, {:.0} MB by {HOLDERS}",
            blocks / 1e6,
            one / 1e6,
            all / 1e6
        ),
    };
    let further = (all - one) / (blocks * f64::from(HOLDERS - 1));
    Ok((figure(one / blocks, "bytes per block"), figure(further, "bytes per further holder and block")))
}

fn chains(settings: &Settings) -> u64 {
    // 10 M blocks.
    if settings.quick { 7_813 } else { 78_125 }
}

/// The bytes by which the process had grown after each step.
fn in_fresh_process(settings: &Settings, resident: Resident) -> Result<Vec<f64>> {
    let case = resident.to_possible_value().context("a case has a name")?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--resident", case.get_name()]);
    if settings.quick {
        command.arg("--quick");
    }
    let output = command.output()?;
    ensure!(output.status.success(), "the process failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

impl Resident {
    /// Fills an index and prints the bytes by which this process has grown after each step.
    ///
    /// # Errors
    ///
    /// If the system does not say how much memory the process has.
    pub fn print(self, settings: &Settings) -> Result<()> {
        let steps = match self {
            Self::Unique => churn(chains(settings)),
            Self::Shared => {
                let mut index = PrefixIndex::new(usize::MAX);
                (0..HOLDERS).for_each(|endpoint| index.set_capacity(endpoint, usize::MAX));
                share(chains(settings), |endpoint, path| {
                    index.insert(endpoint, path);
                    Ok(())
                })
            }
            Self::Events => {
                let scheduler = events::scheduler(HOLDERS)?;
                share(chains(settings), |endpoint, path| {
                    Ok(scheduler.apply_kv_event(&endpoint.to_string(), &events::stored(path, 0), 0)?)
                })
            }
        };
        println!("{}", serde_json::to_string(&steps?)?);
        Ok(())
    }
}

/// Fills an index to its capacity, then stores as much again several times.
fn churn(chains: u64) -> Result<Vec<f64>> {
    let endpoints = 8;
    let before = machine::resident_bytes()?;
    let mut index = PrefixIndex::new(usize::MAX);
    for endpoint in 0..endpoints {
        index.set_capacity(endpoint, (chains * CHAIN as u64).div_ceil(u64::from(endpoints)) as usize);
    }
    let mut steps = Vec::new();
    for round in 0..=CHURN_ROUNDS {
        for number in round * chains..(round + 1) * chains {
            index.insert((number % u64::from(endpoints)) as u32, &path(number, CHAIN));
        }
        steps.push(machine::resident_bytes()? - before);
    }
    Ok(steps)
}

/// Lets one endpoint hold the chains, then all the others.
fn share(chains: u64, mut store: impl FnMut(u32, &[u64]) -> Result<()>) -> Result<Vec<f64>> {
    let before = machine::resident_bytes()?;
    let mut steps = Vec::new();
    for holders in [0..1, 1..HOLDERS] {
        for number in 0..chains {
            let path = path(number, CHAIN);
            holders.clone().try_for_each(|endpoint| store(endpoint, &path))?;
        }
        steps.push(machine::resident_bytes()? - before);
    }
    Ok(steps)
}
