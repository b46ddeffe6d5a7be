//! The report on numbers of replicas.

use super::chart::{Axis, Line, Plot, Scale};
use super::format::{label, number, percent, seconds, seconds_label, spread};
use super::{About, Block, Cell, Report, Row, Section, Table};
use crate::Error;
use crate::result::Mean;
use crate::what_if::{Answer, meaning, needed};

/// The report on how many replicas give what, for a time to the first token of so many seconds.
///
/// # Errors
///
/// [`Error::Report`] if a chart cannot be drawn.
pub fn of_answers(answers: &[Answer], target: f64, about: &About) -> Result<Report, Error> {
    let mut charts = Vec::new();
    for plot in plots(answers) {
        charts.push(Block::Chart { chart: plot.draw()? });
    }
    let setup = format!(
        "{}. Every number is replayed at the pace of the requests, for the time to the first token, and at full load, for \
         what the replicas can answer at all; efficiency is that over as many times what one replica answers.",
        about.traffic
    );
    Ok(Report {
        title: format!("Replicas for {}", about.traffic.split(':').next().unwrap_or_default()),
        meaning: meaning(answers, target, about.price),
        command: about.command.clone(),
        sections: vec![
            Section::new(
                "Replicas",
                vec![Block::text(setup), Block::Table { table: table(answers, target, about.price) }],
            ),
            Section::new("Charts", charts),
        ],
    })
}

fn table(answers: &[Answer], target: f64, price: Option<f64>) -> Table {
    let cost =
        if price.is_some() { "cost of a million requests" } else { "replica-hours of a million requests" };
    let mut table = Table::new([
        "policy",
        "replicas",
        "first token, p95",
        "cached",
        "most requests/s",
        "efficiency",
        cost,
    ]);
    table.rows = answers.iter().map(|answer| row(answer, answers, target, price.unwrap_or(1.0))).collect();
    table
}

fn row(answer: &Answer, answers: &[Answer], target: f64, price: f64) -> Row {
    let cell = |mean: Mean, write: fn(f64) -> String| Cell::new(write(mean.value)).note(spread(mean));
    let mut first_token = cell(answer.first_token_p95, seconds);
    first_token.is_best = answer.first_token_p95.value <= target;
    let hours = answer.replica_hours_per_million;
    let is_needed = needed(answers, &answer.policy, target) == Some(answer.replicas);
    Row {
        cells: vec![
            Cell::new(&answer.policy),
            Cell::new(answer.replicas.to_string()).note(if is_needed { "enough" } else { "" }),
            first_token,
            cell(answer.cached_ratio, percent),
            cell(answer.most_requests_per_second, number),
            cell(answer.efficiency, number),
            cell(Mean { value: hours.value * price, ..hours }, number),
        ],
        is_marked: is_needed,
    }
}

fn plots(answers: &[Answer]) -> [Plot; 3] {
    let plot = |title: &str, explanation: &str, y: Axis, of: fn(&Answer) -> Mean| Plot {
        title: title.to_owned(),
        explanation: explanation.to_owned(),
        x: Axis::new("replicas", Scale::FromZero, label),
        y,
        lines: lines(answers, of),
        has_dots: true,
    };
    [
        plot(
            "Time to first token, slowest 5 %",
            "At the pace of the requests, on a logarithmic scale; lower is better.",
            Axis::new("", Scale::Logarithmic, seconds_label),
            |answer| answer.first_token_p95,
        ),
        plot(
            "Most requests per second",
            "At full load; higher is better.",
            Axis::new("", Scale::FromZero, label),
            |answer| answer.most_requests_per_second,
        ),
        plot(
            "Efficiency",
            "1 is n times as many requests from n replicas as from one; more comes from caches that hold more together.",
            Axis::new("", Scale::FromZero, label),
            |answer| answer.efficiency,
        ),
    ]
}

fn lines(answers: &[Answer], of: fn(&Answer) -> Mean) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for answer in answers {
        let point = (answer.replicas as f64, of(answer).value);
        match lines.iter_mut().find(|line| line.name == answer.policy) {
            Some(line) => line.points.push(point),
            None => lines.push(Line { name: answer.policy.clone(), points: vec![point] }),
        }
    }
    lines
}
