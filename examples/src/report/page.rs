//! The comparison as one HTML file without references to anything else.

use super::charts::{Routing, draw};
use super::{Summary, table};
use crate::workload::RunResult;
use anyhow::{Context, Result};
use minijinja::{Environment, context};
use std::path::Path;

/// Writes the report of two runs.
///
/// # Errors
///
/// If a chart cannot be drawn or the file cannot be written.
pub fn write_page(
    path: &Path,
    summary: &Summary,
    round_robin: &RunResult,
    p3sched: &RunResult,
) -> Result<()> {
    let routings = [
        Routing { run: round_robin, figures: &summary.round_robin },
        Routing { run: p3sched, figures: &summary.p3sched },
    ];
    let charts = draw(&routings)?;
    let errors: Vec<_> = p3sched.errors.iter().take(20).collect();
    let mut templates = Environment::new();
    // The name ends in .html, which switches escaping on.
    templates.add_template("report.html", include_str!("report.html"))?;
    let page = templates.get_template("report.html")?.render(context! {
        summary, charts, errors,
        meaning => summary.meaning(),
        rows => table::rows(summary),
        checks => table::checks(summary),
        requests => round_robin.levels.iter().map(|level| level.outcomes.len()).sum::<usize>(),
    })?;
    std::fs::write(path, page).with_context(|| format!("cannot write `{}`", path.display()))
}
