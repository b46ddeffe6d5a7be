//! The part of a report on one policy.

use super::chart::{Axis, Line, Plot, Scale};
use super::format::{label, number, percent, seconds, spread};
use super::policies::Shown;
use super::{Block, Section, Tile, decisions};
use crate::Error;
use crate::result::{Mean, Replayed, ReplicaSample, Summary};
use crate::trace::SECOND;

/// Points of a line over time.
const POINTS: usize = 120;

/// A policy's figures, its queues and its worst decisions.
pub(super) fn section(shown: &Shown, price: Option<f64>, names_replicas: bool) -> Result<Section, Error> {
    let compared = &shown.compared;
    let title = if names_replicas {
        format!("{}, {}", compared.policy, replicas(compared.replicas))
    } else {
        compared.policy.clone()
    };
    let mut blocks = vec![
        Block::Tiles { tiles: tiles(shown, price) },
        Block::Chart { chart: queues(&shown.replayed).draw()? },
    ];
    blocks.push(Block::head("Worst decisions"));
    blocks.extend(decisions::blocks(&shown.replayed));
    let configuration = serde_norway::to_string(&shown.options.policy.config).unwrap_or_default();
    blocks.push(Block::details("Configuration of the schedulers", vec![Block::Code { text: configuration }]));
    Ok(Section::new(title, blocks))
}

/// `1 replica`, `8 replicas`.
pub(super) fn replicas(count: usize) -> String {
    format!("{count} replica{}", if count == 1 { "" } else { "s" })
}

fn tiles(shown: &Shown, price: Option<f64>) -> Vec<Tile> {
    let mean = |of: fn(&Summary) -> f64| shown.compared.mean(of);
    let tile =
        |name: &str, mean: Mean, write: fn(f64) -> String| Tile::new(name, write(mean.value), spread(mean));
    let mut tiles = vec![
        tile("first token, mean", mean(|summary| summary.time_to_first_token.mean), seconds),
        tile("first token, slowest 5 %", mean(|summary| summary.time_to_first_token.p95), seconds),
        tile("last token, mean", mean(|summary| summary.latency.mean), seconds),
        tile("cached prompt tokens", mean(|summary| summary.cached_ratio), percent),
        tile("expected to be cached", mean(|summary| summary.predicted_ratio), percent),
        tile("requests/s", mean(|summary| summary.requests_per_second), number),
        tile("busiest replica over mean", mean(|summary| summary.max_over_mean_busy), number),
        tile("preempted requests", mean(|summary| summary.preempted as f64), number),
    ];
    tiles.extend(price.map(|price| tile("cost of a million requests", shown.cost(price), number)));
    tiles
}

fn queues(replayed: &Replayed) -> Plot {
    Plot {
        title: "Waiting requests".to_owned(),
        explanation:
            "Requests that wait at the replica with the longest queue, and on the mean of all replicas."
                .to_owned(),
        x: Axis::new("seconds", Scale::FromZero, label),
        y: Axis::new("", Scale::FromZero, label),
        lines: vec![
            Line {
                name: "longest queue".to_owned(),
                points: waiting(replayed, |queues| queues.iter().copied().fold(0.0, f64::max)),
            },
            Line {
                name: "mean".to_owned(),
                points: waiting(replayed, |queues| queues.iter().sum::<f64>() / queues.len().max(1) as f64),
            },
        ],
        has_dots: false,
    }
}

/// A figure of all replicas' queues over time: the largest value of those that a point stands for.
fn waiting(replayed: &Replayed, of: fn(&[f64]) -> f64) -> Vec<(f64, f64)> {
    let moments = replayed.samples.chunk_by(|a, b| a.at == b.at);
    let queue = |sample: &ReplicaSample| f64::from(sample.waiting);
    let values: Vec<_> = moments
        .filter_map(|samples| {
            let queues: Vec<_> = samples.iter().map(queue).collect();
            Some((samples.first()?.at as f64 / SECOND, of(&queues)))
        })
        .collect();
    let together = values.chunks(values.len().div_ceil(POINTS).max(1));
    let point = |values: &[(f64, f64)]| {
        Some((values.first()?.0, values.iter().map(|value| value.1).fold(0.0, f64::max)))
    };
    together.filter_map(point).collect()
}
