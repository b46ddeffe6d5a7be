//! The charts of the report, each as SVG for a wide and for a narrow screen.
//!
//! The colours here are only names: the style sheet of the page replaces each for light and dark screens.

use super::{Figures, milliseconds};
use crate::workload::{Outcome, RunResult};
use anyhow::{Result, anyhow};
use plotters::chart::ChartBuilder;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::drawing::IntoDrawingArea;
use plotters::element::{Circle, Rectangle, Text};
use plotters::prelude::{BindKeyPoints, Cartesian2d, ChartContext, IntoLogRange, SVGBackend};
use plotters::series::LineSeries;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, RGBColor, TextStyle};
use serde::Serialize;

/// Text and axes.
const INK: RGBColor = RGBColor(0x11, 0x11, 0x11);
/// Lines of the grid.
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
/// Round robin, p3sched.
const SERIES: [RGBColor; 2] = [RGBColor(0xd9, 0x77, 0x06), RGBColor(0x25, 0x63, 0xeb)];
/// Requests over which the hit rate is averaged.
const HIT_RATE_WINDOW: usize = 30;
/// Height of every chart, in pixels.
const HEIGHT: u32 = 300;
/// Widths for wide and narrow screens, in pixels.
const WIDTHS: [u32; 2] = [760, 380];

/// One of the two sides of the comparison.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Routing<'a> {
    pub(crate) run: &'a RunResult,
    pub(crate) figures: &'a Figures,
}

/// A chart with its words.
#[derive(Debug, Serialize)]
pub(crate) struct Chart {
    title: &'static str,
    explanation: &'static str,
    wide: String,
    narrow: String,
}

/// Bars side by side: a label per group and the values of both routings.
struct Bars {
    groups: Vec<(String, [f64; 2])>,
    axis: &'static str,
    format: fn(f64) -> String,
}

type Plane<'a, 'b, X, Y> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, Y>>;

/// Draws all charts of a comparison of round robin with p3sched.
pub(crate) fn draw(routings: &[Routing<'_>; 2]) -> Result<Vec<Chart>> {
    Ok(vec![
        chart(
            "Time to first token",
            "Every dot is a request at the moment it was sent; the number of clients grows in steps. The scale is \
             logarithmic, lower is better.",
            |width| time_to_first_token(routings, width),
        )?,
        chart(
            "Cached prompt tokens over time",
            "Share of the prompt that the chosen replica had in its cache, averaged over the last 30 requests.",
            |width| hit_rate(routings, width),
        )?,
        chart(
            "Requests per second",
            "Answered requests per second at each number of clients; higher is better.",
            |width| bars(&throughput(routings), width),
        )?,
        chart("Share per replica", "Which replica served how much of the throughput step.", |width| {
            bars(&share(routings), width)
        })?,
    ])
}

fn chart(
    title: &'static str,
    explanation: &'static str,
    draw: impl Fn(u32) -> Result<String>,
) -> Result<Chart> {
    let [wide, narrow] = WIDTHS;
    Ok(Chart { title, explanation, wide: draw(wide)?, narrow: draw(narrow)? })
}

fn time_to_first_token(routings: &[Routing<'_>; 2], width: u32) -> Result<String> {
    let points = routings.map(|routing| {
        let point = |(at, outcome): (f64, &Outcome)| Some((at, milliseconds(outcome.time_to_first_token?)));
        timeline(routing.run).into_iter().filter_map(point).collect::<Vec<_>>()
    });
    let all = || points.iter().flatten();
    let end = all().map(|(at, _)| *at).fold(1.0, f64::max);
    let (low, high) =
        all().fold((f64::MAX, 1.0_f64), |(low, high), (_, wait)| (low.min(*wait), high.max(*wait)));
    let range = low.min(high) * 0.8..high * 1.25;
    let powers = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5].into_iter();
    let labels = powers.flat_map(|power| [power, power * 2.0, power * 5.0]);
    let labels: Vec<_> = labels.filter(|label| range.contains(label)).collect();
    svg(width, |area| {
        let waits = range.log_scale().with_key_points(labels);
        let mut plane = plane(area, width).build_cartesian_2d(0.0..end, waits).map_err(drawing_failed)?;
        axes(&mut plane, "seconds", &|wait| format!("{wait:.0} ms"))?;
        for (points, color) in points.iter().zip(SERIES) {
            let dots = points.iter().map(|point| Circle::new(*point, 2, color.mix(0.7).filled()));
            plane.draw_series(dots).map_err(drawing_failed)?;
        }
        Ok(())
    })
}

fn hit_rate(routings: &[Routing<'_>; 2], width: u32) -> Result<String> {
    let lines = routings.map(|routing| rolling_hit_rate(&timeline(routing.run)));
    let end = lines.iter().flatten().map(|(at, _)| *at).fold(1.0, f64::max);
    svg(width, |area| {
        let mut plane =
            plane(area, width).build_cartesian_2d(0.0..end, 0.0..100.0).map_err(drawing_failed)?;
        axes(&mut plane, "seconds", &|percent| format!("{percent:.0} %"))?;
        for (line, color) in lines.iter().zip(SERIES) {
            let line = LineSeries::new(line.iter().copied(), color.stroke_width(2));
            plane.draw_series(line).map_err(drawing_failed)?;
        }
        Ok(())
    })
}

fn throughput(routings: &[Routing<'_>; 2]) -> Bars {
    let [before, after] = routings;
    let levels = before.figures.levels.iter().zip(&after.figures.levels);
    let groups = levels.map(|(before, after)| {
        (before.concurrency.to_string(), [before.requests_per_s, after.requests_per_s])
    });
    Bars { groups: groups.collect(), axis: "clients", format: |value| format!("{value:.1}") }
}

fn share(routings: &[Routing<'_>; 2]) -> Bars {
    let [before, after] = routings;
    let shares = before.figures.share.iter().zip(&after.figures.share).enumerate();
    let groups = shares.map(|(replica, (before, after))| {
        (format!("replica {}", replica + 1), [before * 100.0, after * 100.0])
    });
    Bars { groups: groups.collect(), axis: "", format: |value| format!("{value:.0} %") }
}

fn bars(bars: &Bars, width: u32) -> Result<String> {
    let highest =
        bars.groups.iter().flat_map(|(_, values)| values).fold(1.0_f64, |high, value| high.max(*value));
    let groups = bars.groups.len();
    svg(width, |area| {
        let mut plane = plane(area, width)
            .build_cartesian_2d(-0.5..groups as f64 - 0.5, 0.0..highest * 1.15)
            .map_err(drawing_failed)?;
        let label = |at: &f64| {
            let whole = (at - at.round()).abs() < 1e-6 && *at >= 0.0;
            let group = if whole { bars.groups.get(at.round() as usize) } else { None };
            group.map_or_else(String::new, |(label, _)| label.clone())
        };
        plane
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID)
            .light_line_style(GRID.mix(0.0))
            .axis_style(GRID)
            .x_desc(bars.axis)
            .x_labels(groups * 2)
            .x_label_formatter(&label)
            .y_labels(5)
            .y_label_formatter(&|value| (bars.format)(*value))
            .label_style(("sans-serif", 13, &INK))
            .draw()
            .map_err(drawing_failed)?;
        for (group, (_, values)) in bars.groups.iter().enumerate() {
            for ((value, color), left) in values.iter().zip(SERIES).zip([-0.36, 0.02]) {
                let (from, to) = (group as f64 + left, group as f64 + left + 0.34);
                let bar = Rectangle::new([(from, 0.0), (to, *value)], color.filled());
                let style =
                    TextStyle::from(("sans-serif", 12)).color(&INK).pos(Pos::new(HPos::Center, VPos::Bottom));
                let text = Text::new((bars.format)(*value), (from + 0.17, *value + highest * 0.015), style);
                plane.draw_series([bar]).map_err(drawing_failed)?;
                plane.draw_series([text]).map_err(drawing_failed)?;
            }
        }
        Ok(())
    })
}

/// Requests of the throughput step with the seconds from its start to their sending, in that order.
fn timeline(run: &RunResult) -> Vec<(f64, &Outcome)> {
    let mut outcomes: Vec<_> = run.levels.iter().flat_map(|level| &level.outcomes).collect();
    outcomes.sort_by_key(|outcome| outcome.sent);
    let start = outcomes.first().map(|outcome| outcome.sent).unwrap_or_default();
    outcomes.into_iter().map(|outcome| ((outcome.sent - start).as_secs_f64(), outcome)).collect()
}

fn rolling_hit_rate(timeline: &[(f64, &Outcome)]) -> Vec<(f64, f64)> {
    let window = HIT_RATE_WINDOW.min(timeline.len()).max(1);
    let rate = |window: &[(f64, &Outcome)]| {
        let prompt: u64 = window.iter().map(|(_, outcome)| outcome.prompt_tokens).sum();
        let cached: u64 = window.iter().map(|(_, outcome)| outcome.cached_tokens).sum();
        let at = window.iter().map(|(at, _)| *at).sum::<f64>() / window.len().max(1) as f64;
        (at, cached as f64 / prompt.max(1) as f64 * 100.0)
    };
    timeline.windows(window).map(rate).collect()
}

type Area<'a> = plotters::drawing::DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn svg(width: u32, draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (width, HEIGHT)).into_drawing_area();
        draw(&area)?;
        area.present().map_err(drawing_failed)?;
    }
    Ok(text)
}

fn plane<'a, 'b>(area: &'a Area<'b>, width: u32) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder.margin(6).margin_right(if width > 500 { 16 } else { 10 });
    builder.x_label_area_size(38).y_label_area_size(if width > 500 { 70 } else { 62 });
    builder
}

fn axes<X, Y>(plane: &mut Plane<'_, '_, X, Y>, time: &str, format: &dyn Fn(f64) -> String) -> Result<()>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    plane
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(GRID)
        .light_line_style(GRID.mix(0.0))
        .axis_style(GRID)
        .x_desc(time)
        .x_labels(6)
        .x_label_formatter(&|at| format!("{at:.0}"))
        .y_labels(6)
        .y_label_formatter(&|value| format(*value))
        .label_style(("sans-serif", 13, &INK))
        .draw()
        .map_err(drawing_failed)
}

fn drawing_failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw a chart: {error}")
}
