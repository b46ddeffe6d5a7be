//! The comparison as a table for a terminal.

use super::Summary;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table, TableComponent};

/// Rows of the comparison: name, round robin, p3sched.
pub(crate) fn rows(summary: &Summary) -> Vec<[String; 3]> {
    let (before, after) = (&summary.round_robin, &summary.p3sched);
    let percent = |ratio: f64| format!("{:.1} %", ratio * 100.0);
    let wait = |ms: f64| format!("{ms:.0} ms");
    let share = |shares: &[f64]| {
        shares.iter().map(|share| format!("{:.0} %", share * 100.0)).collect::<Vec<_>>().join(" · ")
    };
    let row = |name: &str, before: String, after: String| [name.to_owned(), before, after];
    let mut rows = vec![row(
        "requests/s, whole step",
        format!("{:.1}", before.requests_per_s),
        format!("{:.1}", after.requests_per_s),
    )];
    for (before, after) in before.levels.iter().zip(&after.levels) {
        rows.push(row(
            &format!("  {} client{}", before.concurrency, if before.concurrency == 1 { "" } else { "s" }),
            format!("{:.1}", before.requests_per_s),
            format!("{:.1}", after.requests_per_s),
        ));
    }
    rows.extend([
        row("time to first token p50", wait(before.ttft_p50_ms), wait(after.ttft_p50_ms)),
        row("time to first token p95", wait(before.ttft_p95_ms), wait(after.ttft_p95_ms)),
        row("time to first token mean", wait(before.ttft_mean_ms), wait(after.ttft_mean_ms)),
        row("cached prompt tokens", percent(before.cached_token_ratio), percent(after.cached_token_ratio)),
        row("share per replica", share(&before.share), share(&after.share)),
        row("burst, share per replica", share(&before.burst_share), share(&after.burst_share)),
        row("burst, time to first token p95", wait(before.burst_ttft_p95_ms), wait(after.burst_ttft_p95_ms)),
        row("failed requests, all steps", before.errors.to_string(), after.errors.to_string()),
    ]);
    rows
}

/// Checks with their names and results.
pub(crate) fn checks(summary: &Summary) -> [(&'static str, bool); 5] {
    let checks = summary.checks;
    [
        ("health and functions", checks.functions),
        ("cache routing", checks.cache_routing),
        ("distribution", checks.distribution),
        ("burst", checks.burst),
        ("failure of a replica", checks.failure),
    ]
}

/// Prints the comparison, what it means, the checks and the goals.
pub fn print_table(summary: &Summary) {
    let mut table = Table::new();
    table.load_preset(UTF8_HORIZONTAL_ONLY).set_header(["", "round robin", "p3sched"]);
    for row in rows(summary) {
        table.add_row(row);
    }
    for line in [
        TableComponent::HorizontalLines,
        TableComponent::MiddleIntersections,
        TableComponent::LeftBorderIntersections,
        TableComponent::RightBorderIntersections,
    ] {
        table.remove_style(line);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}\n\n{}\n", summary.meaning());
    let mark = |ok: bool| if ok { "ok    " } else { "FAILED" };
    for (name, ok) in checks(summary) {
        println!("{} check: {name}", mark(ok));
    }
    for goal in &summary.goals {
        println!("{} goal: {} ({})", mark(goal.ok), goal.name, goal.value);
    }
}
