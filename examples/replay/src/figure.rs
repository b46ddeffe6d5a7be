//! Figures: `summary.json` for programs, a table for people.

use std::path::Path;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::result::Mean;

/// What a figure has to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// Measured for comparison only.
    None,
}

/// One measured value, as it is in `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured: parts with slashes.
    pub name: String,
    /// The mean over the seeds; `None` if it was left out, and `detail` says why.
    pub value: Option<f64>,
    /// Its unit.
    pub unit: String,
    /// What it has to reach.
    pub goal: Option<String>,
    /// Whether it does.
    pub ok: Option<bool>,
    /// The largest less the smallest value over the mean.
    pub spread: Option<f64>,
    /// How to measure it again.
    pub command: String,
    /// The values behind it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl Figure {
    /// A figure and what it has to reach.
    pub fn new(name: impl Into<String>, mean: Mean, unit: &str, goal: Goal) -> Self {
        let (text, ok) = match goal {
            Goal::AtMost(bound) => (Some(format!("≤ {bound}")), Some(mean.value <= bound)),
            Goal::AtLeast(bound) => (Some(format!("≥ {bound}")), Some(mean.value >= bound)),
            Goal::None => (None, None),
        };
        Self {
            name: name.into(),
            value: Some(four_digits(mean.value)),
            unit: unit.to_owned(),
            goal: text,
            ok,
            spread: Some(four_digits(mean.spread)),
            command: String::new(),
            detail: String::new(),
        }
    }

    /// A figure that could not be measured.
    pub fn left_out(name: impl Into<String>, reason: &str) -> Self {
        Self {
            name: name.into(),
            value: None,
            unit: String::new(),
            goal: None,
            ok: None,
            spread: None,
            command: String::new(),
            detail: reason.to_owned(),
        }
    }

    /// Adds the values behind it.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// Adds how to measure it again.
    #[must_use]
    pub fn command(mut self, command: impl Into<String>) -> Self {
        self.command = command.into();
        self
    }

    /// Whether it has a goal and misses it.
    pub fn missed(&self) -> bool {
        self.ok == Some(false)
    }
}

/// Writes figures as a list; the folder is made if need be.
///
/// # Errors
///
/// [`Error::File`] if the file cannot be written.
pub fn write(path: &Path, figures: &[Figure]) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(figures).unwrap_or_default() + "\n";
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let written = folder.map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(path, text));
    written.map_err(|error| Error::file(path, &error))
}

/// The figures as a table for a terminal.
pub fn table(figures: &[Figure]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["figure", "value", "unit", "goal", "", "spread", "measured"]);
    for figure in figures {
        let mark = match (figure.value, figure.ok) {
            (None, _) => "left out",
            (_, Some(true)) => "ok",
            (_, Some(false)) => "missed",
            (_, None) => "",
        };
        let value = figure.value.map_or_else(String::new, |value| value.to_string());
        let spread = figure.spread.map_or_else(String::new, |spread| format!("{:.1} %", spread * 100.0));
        let goal = figure.goal.clone().unwrap_or_default();
        let (name, unit, detail) = (&figure.name, &figure.unit, &figure.detail);
        table.add_row([name, &value, unit, &goal, mark, &spread, detail]);
    }
    for right in [1, 5] {
        table
            .column_mut(right)
            .into_iter()
            .for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    }
    table
}

fn four_digits(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_says_whether_its_goal_is_met() {
        let mean = Mean::of(&[1.0, 2.0, 3.0]);
        let figure = Figure::new("a/b", mean, "s", Goal::AtMost(1.5)).command("replay run");
        assert!(figure.missed());
        assert_eq!(
            (figure.value, figure.spread, figure.goal.as_deref()),
            (Some(2.0), Some(1.0), Some("≤ 1.5"))
        );
        let text = serde_json::to_value(&figure).unwrap();
        assert_eq!(text["ok"], false);
        assert!(!Figure::left_out("c", "no trace").missed());
    }
}
