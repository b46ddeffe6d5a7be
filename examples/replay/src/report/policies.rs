//! The report on policies that were compared.

use super::chart::{Axis, Line, Plot, Scale};
use super::format::{label, number, percent, percent_label, seconds, seconds_label, spread};
use super::{Block, Cell, Load, LoadRow, Report, Row, Section, Table, decisions, policy};
use crate::Error;
use crate::comparison::{Case, Compared, Input};
use crate::cost::per_million_requests;
use crate::result::{Distribution, Mean, Replayed, RequestResult, Summary};
use crate::simulation::{Options, replay};
use crate::trace::SECOND;

/// Points of a line over time.
const BUCKETS: usize = 60;
/// Points of a distribution.
const QUANTILES: usize = 100;

/// A policy with its figures and all of one of its replays.
#[derive(Debug, Clone)]
pub struct Shown {
    /// How it was replayed.
    pub options: Options,
    /// The figures of all seeds.
    pub compared: Compared,
    /// What happened under the first seed, the worst decisions explained.
    pub replayed: Replayed,
}

impl Shown {
    /// Replays a case that was compared once more, to keep what its report tells of single requests.
    ///
    /// # Errors
    ///
    /// Those of [`replay`].
    pub fn new(input: &Input, case: &Case, compared: Compared) -> Result<Self, Error> {
        let options = Options {
            seed: compared.summaries.first().map_or(0, |first| first.seed),
            ..case.options.clone()
        };
        let trace = input.trace(options.seed);
        let unexplained = replay(&trace, &options, &|_| {})?;
        let explain = decisions::candidates(&unexplained);
        let replayed = replay(&trace, &Options { explain, ..options.clone() }, &|_| {})?;
        Ok(Self { options, compared, replayed })
    }

    /// The mean price of a million answers.
    pub(super) fn cost(&self, price: f64) -> Mean {
        self.compared
            .mean(|summary| per_million_requests(self.compared.replicas, price, summary.requests_per_second))
    }
}

/// What a report says besides the results.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// What was replayed: the name of a trace or a workload.
    pub traffic: String,
    /// The command.
    pub command: String,
    /// The price of a replica for an hour, in any currency; `None` to leave costs out.
    pub price: Option<f64>,
}

/// The report on policies.
///
/// # Errors
///
/// [`Error::Report`] if a chart cannot be drawn.
pub fn of_policies(shown: &[Shown], about: &About) -> Result<Report, Error> {
    let mut sections = vec![Section::new(
        "All policies",
        vec![Block::text(setup(shown, about)), Block::Table { table: table(shown, about.price) }],
    )];
    let mut counts: Vec<_> = shown.iter().map(|shown| shown.compared.replicas).collect();
    counts.sort_unstable();
    counts.dedup();
    for &replicas in &counts {
        let group: Vec<_> = shown.iter().filter(|shown| shown.compared.replicas == replicas).collect();
        let title = format!("Side by side with {}", policy::replicas(replicas));
        sections.push(Section::new(title, side_by_side(&group)?));
    }
    for shown in shown {
        sections.push(policy::section(shown, about.price, counts.len() > 1)?);
    }
    Ok(Report {
        title: format!("Replay of {}", about.traffic.split(':').next().unwrap_or_default()),
        meaning: meaning(shown),
        command: about.command.clone(),
        sections,
    })
}

/// What was replayed, in words.
fn setup(shown: &[Shown], about: &About) -> String {
    let Some(first) = shown.first() else { return String::new() };
    let requests = &first.replayed.requests;
    let tokens = |of: fn(&RequestResult) -> u32| {
        requests.iter().map(|request| f64::from(of(request))).sum::<f64>() / requests.len().max(1) as f64
    };
    let mut engines: Vec<_> =
        first.options.replicas.iter().map(|replica| replica.engine.name.as_str()).collect();
    engines.dedup();
    let price = about.price.map_or_else(String::new, |price| format!(" A replica costs {price} an hour."));
    format!(
        "{}: {} requests with {:.0} tokens of prompt and {:.0} of answer on the mean, on simulated engines: {}. Every policy \
         ran {} times, with other seeds; ± is half of the distance between the best and the worst run. Charts and \
         single decisions are those of the first run.{price}",
        about.traffic,
        requests.len(),
        tokens(|request| request.prompt_tokens),
        tokens(|request| request.output_tokens),
        engines.join(", "),
        first.compared.summaries.len(),
    )
}

/// A column: its head, its values, how they are written, and whether the smallest is best (`None`: none is).
struct Column {
    head: &'static str,
    of: fn(&Summary) -> f64,
    write: fn(f64) -> String,
    smallest_is_best: Option<bool>,
}

const COLUMNS: [Column; 8] = [
    Column { head: "cached", of: |s| s.cached_ratio, write: percent, smallest_is_best: Some(false) },
    Column {
        head: "first token, mean",
        of: |s| s.time_to_first_token.mean,
        write: seconds,
        smallest_is_best: Some(true),
    },
    Column { head: "p50", of: |s| s.time_to_first_token.p50, write: seconds, smallest_is_best: Some(true) },
    Column { head: "p95", of: |s| s.time_to_first_token.p95, write: seconds, smallest_is_best: Some(true) },
    Column { head: "p99", of: |s| s.time_to_first_token.p99, write: seconds, smallest_is_best: Some(true) },
    Column {
        head: "requests/s",
        of: |s| s.requests_per_second,
        write: number,
        smallest_is_best: Some(false),
    },
    Column {
        head: "output tokens/s",
        of: |s| s.output_tokens_per_second,
        write: number,
        smallest_is_best: Some(false),
    },
    Column { head: "failed", of: |s| s.failed as f64, write: number, smallest_is_best: None },
];

fn table(shown: &[Shown], price: Option<f64>) -> Table {
    let mut table = Table::new(["policy", "replicas"]);
    table.head.extend(COLUMNS.iter().map(|column| column.head.to_owned()));
    table.head.extend(price.map(|_| "cost of a million requests".to_owned()));
    table.rows = shown.iter().map(|shown| row(shown, price)).collect();
    for (at, column) in COLUMNS.iter().enumerate() {
        let Some(smallest_is_best) = column.smallest_is_best else { continue };
        let value = |shown: &Shown| shown.compared.mean(column.of).value;
        mark_best(&mut table.rows, at + 2, &shown.iter().map(value).collect::<Vec<_>>(), smallest_is_best);
    }
    if let Some(price) = price {
        let costs: Vec<_> = shown.iter().map(|shown| shown.cost(price).value).collect();
        mark_best(&mut table.rows, COLUMNS.len() + 2, &costs, true);
    }
    table
}

fn row(shown: &Shown, price: Option<f64>) -> Row {
    let compared = &shown.compared;
    let cells = COLUMNS.iter().map(|column| {
        let mean = compared.mean(column.of);
        Cell::new((column.write)(mean.value)).note(spread(mean))
    });
    let names = [Cell::new(&compared.policy), Cell::new(compared.replicas.to_string())];
    let cost =
        price.map(|price| shown.cost(price)).map(|cost| Cell::new(number(cost.value)).note(spread(cost)));
    Row {
        cells: names.into_iter().chain(cells).chain(cost).collect(),
        is_marked: compared.policy == "default",
    }
}

/// Marks the best values of a column and gives all of them bars.
pub(super) fn mark_best(rows: &mut [Row], column: usize, values: &[f64], smallest_is_best: bool) {
    let largest = values.iter().copied().fold(0.0, f64::max);
    let smallest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let best = if smallest_is_best { smallest } else { largest };
    for (row, &value) in rows.iter_mut().zip(values) {
        let Some(cell) = row.cells.get_mut(column) else { continue };
        cell.is_best = value == best && smallest < largest;
        cell.bar = (largest > 0.0).then(|| (value / largest).clamp(0.0, 1.0));
    }
}

fn side_by_side(group: &[&Shown]) -> Result<Vec<Block>, Error> {
    let line = |shown: &&Shown, points: Vec<(f64, f64)>| Line { name: shown.compared.policy.clone(), points };
    let lines = |points: fn(&Replayed) -> Vec<(f64, f64)>| -> Vec<Line> {
        group.iter().map(|shown| line(shown, points(&shown.replayed))).collect()
    };
    let time = || Axis::new("seconds", Scale::FromZero, label);
    let plots = [
        Plot {
            title: "Time to first token".to_owned(),
            explanation: "Share of the requests whose first token came within this time; further left and higher is \
                          better. The time is on a logarithmic scale."
                .to_owned(),
            x: Axis::new("", Scale::Logarithmic, seconds_label),
            y: Axis::new("", Scale::UpTo(1.0), percent_label),
            lines: lines(distribution),
            has_dots: false,
        },
        Plot {
            title: "Time to first token, over time".to_owned(),
            explanation: "Mean of the requests that came at about the same time, on a logarithmic scale; lower is better."
                .to_owned(),
            x: time(),
            y: Axis::new("", Scale::Logarithmic, seconds_label),
            lines: lines(|replayed| over_time(&replayed.requests, mean_wait)),
            has_dots: false,
        },
        Plot {
            title: "Cached prompt tokens, over time".to_owned(),
            explanation: "Share of the prompts that the replicas had in their caches; higher is better.".to_owned(),
            x: time(),
            y: Axis::new("", Scale::UpTo(1.0), percent_label),
            lines: lines(|replayed| over_time(&replayed.requests, cached_share)),
            has_dots: false,
        },
    ];
    let mut blocks = Vec::new();
    for plot in plots {
        blocks.push(Block::Chart { chart: plot.draw()? });
    }
    if group.len() > super::chart::MOST_LINES {
        let text = format!("The charts show the first {} policies.", super::chart::MOST_LINES);
        blocks.insert(0, Block::text(text));
    }
    blocks.push(Block::Loads { rows: group.iter().map(|shown| load_row(shown)).collect() });
    Ok(blocks)
}

/// Share of the requests, by the time within which their first token came.
fn distribution(replayed: &Replayed) -> Vec<(f64, f64)> {
    let mut waits: Vec<_> = replayed.requests.iter().filter_map(RequestResult::time_to_first_token).collect();
    waits.sort_unstable_by(f64::total_cmp);
    let all = replayed.requests.len().max(1) as f64;
    let last = waits.len().saturating_sub(1);
    let point = |at: usize| waits.get(at).map(|&wait| (wait.max(1e-4), (at + 1) as f64 / all));
    (0..=QUANTILES).filter_map(|step| point(last * step / QUANTILES)).collect()
}

/// A figure of the requests that came at about the same time, by that time in seconds.
pub(super) fn over_time(
    requests: &[RequestResult],
    figure: fn(&[RequestResult]) -> Option<f64>,
) -> Vec<(f64, f64)> {
    let mut sorted = requests.to_vec();
    sorted.sort_unstable_by_key(|request| request.arrival);
    let start = sorted.first().map_or(0, |request| request.arrival);
    let points = sorted.chunks(sorted.len().div_ceil(BUCKETS).max(1)).filter_map(|together| {
        let middle = together.get(together.len() / 2)?;
        Some(((middle.arrival - start) as f64 / SECOND, figure(together)?))
    });
    points.collect()
}

fn mean_wait(requests: &[RequestResult]) -> Option<f64> {
    let waits: Vec<_> = requests.iter().filter_map(RequestResult::time_to_first_token).collect();
    (!waits.is_empty()).then(|| Distribution::of(waits).mean.max(1e-4))
}

fn cached_share(requests: &[RequestResult]) -> Option<f64> {
    let sum =
        |of: fn(&RequestResult) -> u32| requests.iter().map(|request| f64::from(of(request))).sum::<f64>();
    let prompts = sum(|request| request.prompt_tokens);
    (prompts > 0.0).then(|| sum(|request| request.cached_tokens) / prompts)
}

fn load_row(shown: &Shown) -> LoadRow {
    let summary = Summary::of(&shown.replayed);
    let computed: Vec<_> = shown.replayed.replicas.iter().map(|totals| totals.computed_tokens).collect();
    let largest = computed.iter().copied().max().unwrap_or(0).max(1) as f64;
    let mean = computed.iter().sum::<u64>() as f64 / computed.len().max(1) as f64;
    let loads = computed.iter().enumerate().map(|(at, &tokens)| Load {
        height: tokens as f64 / largest,
        title: format!("replica-{at}: {tokens} tokens"),
    });
    LoadRow {
        name: shown.compared.policy.clone(),
        loads: loads.collect(),
        note: format!(
            "{:.1} million tokens each on the mean, the busiest {} times as many; {} of the time computing",
            mean / 1e6,
            number(largest / mean.max(1.0)),
            percent(summary.utilization),
        ),
    }
}

/// Which policy is best, in a sentence.
fn meaning(shown: &[Shown]) -> String {
    let replicas = shown.iter().map(|shown| shown.compared.replicas).max().unwrap_or(0);
    let group: Vec<_> = shown.iter().filter(|shown| shown.compared.replicas == replicas).collect();
    let wait = |shown: &Shown| shown.compared.mean(|summary| summary.time_to_first_token.mean);
    let order = |a: &&&Shown, b: &&&Shown| wait(a).value.total_cmp(&wait(b).value);
    let (Some(best), Some(worst)) = (group.iter().min_by(order), group.iter().max_by(order)) else {
        return String::new();
    };
    let cached = |shown: &Shown| percent(shown.compared.mean(|summary| summary.cached_ratio).value);
    if group.len() == 1 {
        let (name, wait) = (&best.compared.policy, seconds(wait(best).value));
        return format!(
            "{name}: {wait} to the first token on the mean, {} of the prompts cached.",
            cached(best)
        );
    }
    let reach = |mean: Mean| mean.value * mean.spread / 2.0;
    let is_close = |other: &&&Shown| {
        other.compared.policy != best.compared.policy
            && wait(other).value - wait(best).value <= reach(wait(other)) + reach(wait(best))
    };
    let close: Vec<_> = group.iter().filter(is_close).map(|shown| shown.compared.policy.as_str()).collect();
    let close = match close.as_slice() {
        [] => String::new(),
        names => format!(" Within what runs differ by, as good: {}.", names.join(", ")),
    };
    format!(
        "With {}, {} has the shortest mean time to the first token: {}, with {} of the prompts cached. Under {} it is {}, \
         {} times as long, with {} cached.{close}",
        policy::replicas(replicas),
        best.compared.policy,
        seconds(wait(best).value),
        cached(best),
        worst.compared.policy,
        seconds(wait(worst).value),
        number(wait(worst).value / wait(best).value.max(1e-9)),
        cached(worst),
    )
}
