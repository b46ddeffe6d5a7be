//! The report on sweeps of the scheduler's default numbers.

use super::chart::{Axis, Line, Plot, Scale};
use super::format::{percent, seconds, setting};
use super::{Block, Cell, Report, Row, Section, Table};
use crate::Error;
use crate::sweep::defaults::LEFT_OUT;
use crate::sweep::scenarios::SCENARIOS;
use crate::sweep::verdict::Verdict;
use crate::sweep::{Outcome, Swept, Tried};

/// The report on sweeps under so many seeds.
///
/// # Errors
///
/// [`Error::Report`] if a chart cannot be drawn.
pub fn of_sweeps(swept: &[Swept], seeds: u64, command: &str) -> Result<Report, Error> {
    let mut sections = vec![overview(swept, seeds)];
    for sweep in swept {
        let chart = Block::Chart { chart: plot(sweep).draw()? };
        let blocks = vec![Block::text(sentence(sweep)), chart, Block::Table { table: table(sweep) }];
        sections.push(Section::new(sweep.name.clone(), blocks));
    }
    let mut left_out = Table::new(["not swept", "why"]).prose();
    let row = |(name, reason): &(&str, &str)| Row {
        cells: vec![Cell::new(*name), Cell::new(*reason)],
        is_marked: false,
    };
    left_out.rows = LEFT_OUT.iter().map(row).collect();
    sections.push(Section::new("Left out", vec![Block::Table { table: left_out }]));
    Ok(Report {
        title: "Every default number, swept".to_owned(),
        meaning: meaning(swept),
        command: command.to_owned(),
        sections,
    })
}

/// How many defaults stand, and which do not.
pub fn meaning(swept: &[Swept]) -> String {
    let better = swept.iter().filter(|sweep| matches!(sweep.verdict, Verdict::Better { .. }));
    let better: Vec<_> = better.map(|sweep| sweep.name.as_str()).collect();
    let stand = swept.len() - better.len();
    match better.as_slice() {
        [] => format!("For none of {stand} default numbers another value is better everywhere."),
        names => format!(
            "{stand} of {} default numbers stand; another value is better somewhere and worse nowhere for: {}.",
            swept.len(),
            names.join(", ")
        ),
    }
}

/// The verdict on a default, in words.
pub fn sentence(sweep: &Swept) -> String {
    match &sweep.verdict {
        Verdict::NoDifference => "No value changes the mean time to the first token by 0.5 %.".to_owned(),
        Verdict::WithinSpread => "The default is within spread of the best.".to_owned(),
        Verdict::TradeOff { value, shorter, worse_in } => format!(
            "A trade-off: {} makes the mean time to the first token {} shorter on the mean of all scenarios, but longer in: \
             {}.",
            value_text(*value),
            percent(*shorter),
            worse_in.join(", ")
        ),
        Verdict::Better { value, shorter } => format!(
            "{} is better: the mean time to the first token is {} shorter on the mean of all scenarios, and longer in none.",
            value_text(*value),
            percent(*shorter)
        ),
    }
}

/// A value as a configuration has it.
pub fn value_text(value: Option<f64>) -> String {
    value.map_or_else(|| "null".to_owned(), setting)
}

fn overview(swept: &[Swept], seeds: u64) -> Section {
    let mut table = Table::new(["default number", "default", "verdict"]).prose();
    table.rows = swept
        .iter()
        .map(|sweep| Row {
            cells: vec![
                Cell::new(&sweep.name).note(sweep.under.clone()),
                Cell::new(value_text(sweep.default)),
                Cell::new(sentence(sweep)),
            ],
            is_marked: matches!(sweep.verdict, Verdict::Better { .. }),
        })
        .collect();
    let mut scenarios = Table::new(["scenario", "what it is like"]).prose();
    let row =
        |name: &str, words: &str| Row { cells: vec![Cell::new(name), Cell::new(words)], is_marked: false };
    scenarios.rows = SCENARIOS.iter().map(|scenario| row(scenario.name, scenario.explanation)).collect();
    let text = format!(
        "Every number was varied alone, in {} scenarios on eight replicas under {seeds} seeds. A value is compared with the \
         default seed by seed; a difference counts if it is more than three times its standard error.",
        SCENARIOS.len()
    );
    Section::new(
        "Verdicts",
        vec![Block::text(text), Block::Table { table }, Block::Table { table: scenarios }],
    )
}

fn plot(sweep: &Swept) -> Plot {
    let line = |name: &'static str| Line {
        name: name.to_owned(),
        points: (0_u32..)
            .zip(&sweep.values)
            .filter_map(|(at, tried)| Some((f64::from(at), find(tried, name)?.longer.exp())))
            .collect(),
    };
    Plot {
        title: "Mean time to the first token beside the default's".to_owned(),
        explanation: "1 is as with the default, less is better; on a logarithmic scale.".to_owned(),
        x: Axis::new(
            "",
            Scale::Named(sweep.values.iter().map(|tried| value_text(tried.value)).collect()),
            setting,
        ),
        y: Axis::new("", Scale::Logarithmic, |ratio| format!("{ratio:.2}")),
        lines: SCENARIOS.iter().map(|scenario| line(scenario.name)).collect(),
        has_dots: true,
    }
}

fn table(sweep: &Swept) -> Table {
    let mut table = Table::new(["value"]);
    table.head.extend(SCENARIOS.iter().map(|scenario| scenario.name.to_owned()));
    table.rows = sweep.values.iter().map(|tried| row(sweep, tried)).collect();
    table
}

fn row(sweep: &Swept, tried: &Tried) -> Row {
    let is_default = tried.value == sweep.default;
    let cells = SCENARIOS
        .iter()
        .map(|scenario| find(tried, scenario.name).map_or_else(Cell::default, |own| cell(own, is_default)));
    let name = Cell::new(value_text(tried.value)).note(if is_default { "default" } else { "" });
    Row { cells: std::iter::once(name).chain(cells).collect(), is_marked: is_default }
}

fn cell(outcome: &Outcome, is_default: bool) -> Cell {
    let note = if is_default {
        format!("{} cached", percent(outcome.cached_ratio))
    } else {
        format!("{:+.1} % ± {:.1}", outcome.longer.exp_m1() * 100.0, outcome.error * 100.0)
    };
    let mut cell = Cell::new(seconds(outcome.mean_time_to_first_token)).note(note);
    cell.is_best = -outcome.longer > outcome.error.max(0.005);
    cell
}

fn find<'a>(tried: &'a Tried, scenario: &str) -> Option<&'a Outcome> {
    tried.results.iter().find(|outcome| outcome.scenario == scenario)
}
