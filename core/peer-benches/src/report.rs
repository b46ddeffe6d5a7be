//! The figures: `summary.json` for programs, a table for people.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table};
use serde::{Deserialize, Serialize};

/// What a figure has to reach.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// Measured for comparison only.
    None,
}

/// One measured value.
#[derive(Debug, Clone)]
pub struct Figure {
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
    pub goal: Goal,
    /// Distance between the quartiles of the rounds, over the median; 0 where there is one round.
    pub spread: f64,
    /// The values behind a ratio.
    pub detail: String,
}

/// A figure in `summary.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    name: String,
    value: f64,
    unit: String,
    goal: Option<String>,
    ok: Option<bool>,
    spread: Option<f64>,
    command: String,
    machine: String,
    #[serde(flatten)]
    other: serde_json::Map<String, serde_json::Value>,
}

impl Goal {
    fn is_met(self, value: f64) -> Option<bool> {
        match self {
            Self::AtMost(bound) => Some(value <= bound),
            Self::AtLeast(bound) => Some(value >= bound),
            Self::None => None,
        }
    }

    fn text(self) -> Option<String> {
        match self {
            Self::AtMost(bound) => Some(format!("≤ {bound}")),
            Self::AtLeast(bound) => Some(format!("≥ {bound}")),
            Self::None => None,
        }
    }
}

impl Entry {
    pub fn new(figure: Figure, machine: &str) -> Self {
        let command = format!(
            "cargo run --release --manifest-path core/peer-benches/Cargo.toml -- --only {}",
            figure.name
        );
        let mut other = serde_json::Map::new();
        if !figure.detail.is_empty() {
            other.insert("detail".to_owned(), figure.detail.into());
        }
        Self {
            ok: figure.goal.is_met(figure.value),
            goal: figure.goal.text(),
            value: four_digits(figure.value),
            spread: Some(four_digits(figure.spread)),
            unit: figure.unit.to_owned(),
            name: figure.name,
            command,
            machine: machine.to_owned(),
            other,
        }
    }

    pub fn missed(&self) -> bool {
        self.ok == Some(false)
    }
}

/// Writes the new entries over those of the same name in the file and keeps the others, also those of other programs.
///
/// # Errors
///
/// If the file is there and is not a list of entries, or cannot be written.
pub fn merge(path: &Path, new: &[Entry]) -> Result<()> {
    let mut entries: Vec<serde_json::Value> = match fs::read(path) {
        Ok(text) => {
            serde_json::from_slice(&text).with_context(|| format!("not a summary: `{}`", path.display()))?
        }
        Err(_) => Vec::new(),
    };
    let names: HashSet<&str> = new.iter().map(|entry| entry.name.as_str()).collect();
    entries.retain(|entry| entry["name"].as_str().is_none_or(|name| !names.contains(name)));
    for entry in new {
        entries.push(serde_json::to_value(entry)?);
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let unfinished = path.with_extension("json.new");
    fs::write(&unfinished, serde_json::to_string_pretty(&entries)? + "\n")?;
    fs::rename(&unfinished, path).with_context(|| format!("cannot write: `{}`", path.display()))
}

/// The entries as a table for a terminal.
pub fn table(entries: &[Entry]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["figure", "value", "unit", "goal", "", "spread", "measured"]);
    for entry in entries {
        let (mark, color) = match entry.ok {
            Some(true) => ("ok", Color::Green),
            Some(false) => ("missed", Color::Red),
            None => ("", Color::Reset),
        };
        let spread = entry.spread.map_or(String::new(), |spread| format!("{:.0} %", spread * 100.0));
        let detail = entry.other.get("detail").and_then(|detail| detail.as_str()).unwrap_or_default();
        table.add_row([
            Cell::new(&entry.name),
            Cell::new(entry.value).set_alignment(CellAlignment::Right).add_attribute(Attribute::Bold),
            Cell::new(&entry.unit),
            Cell::new(entry.goal.as_deref().unwrap_or_default()),
            Cell::new(mark).fg(color),
            Cell::new(spread).set_alignment(CellAlignment::Right),
            Cell::new(detail),
        ]);
    }
    table
}

fn four_digits(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// A time in the unit that people would use.
pub fn time_text(nanoseconds: f64) -> String {
    match nanoseconds {
        time if time < 1e3 => format!("{time:.1} ns"),
        time if time < 1e6 => format!("{:.2} µs", time / 1e3),
        time if time < 1e9 => format!("{:.2} ms", time / 1e6),
        time => format!("{:.2} s", time / 1e9),
    }
}
