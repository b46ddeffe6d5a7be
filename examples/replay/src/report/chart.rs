//! Line charts as SVG, each for a wide and for a narrow screen.
//!
//! The colours that are drawn are only names: the style sheet of the page says what each is on light and dark screens.

use plotters::chart::ChartBuilder;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::Circle;
use plotters::prelude::SVGBackend;
use plotters::series::LineSeries;
use plotters::style::{Color, RGBColor};
use serde::Serialize;

use crate::Error;

/// Text and axes.
pub(super) const INK: RGBColor = RGBColor(0x11, 0x11, 0x11);
/// Lines of the grid.
pub(super) const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
/// Lines, by their position; as many can be told apart.
pub(super) const SERIES: [RGBColor; 8] = [
    RGBColor(0x24, 0x59, 0xc4),
    RGBColor(0xb4, 0x56, 0x0b),
    RGBColor(0x8b, 0x2f, 0x9e),
    RGBColor(0x1a, 0x72, 0x40),
    RGBColor(0xb3, 0x26, 0x1e),
    RGBColor(0x0e, 0x74, 0x90),
    RGBColor(0x7c, 0x5e, 0x10),
    RGBColor(0x59, 0x62, 0x73),
];
/// Lines that one chart can have.
pub const MOST_LINES: usize = SERIES.len();
/// Height of every chart, in pixels.
const HEIGHT: u32 = 280;
/// Widths for wide and narrow screens, in pixels.
const WIDTHS: [u32; 2] = [760, 380];

/// A chart with its words.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Chart {
    title: String,
    explanation: String,
    /// Names of the lines, in the order of their colours.
    key: Vec<String>,
    wide: String,
    narrow: String,
}

/// What is to be drawn.
#[derive(Debug, Clone)]
pub struct Plot {
    /// What it shows.
    pub title: String,
    /// How to read it.
    pub explanation: String,
    /// From left to right.
    pub x: Axis,
    /// From bottom to top.
    pub y: Axis,
    /// The lines; those beyond the eighth are left out.
    pub lines: Vec<Line>,
    /// Whether every point has a dot.
    pub has_dots: bool,
}

/// One line of a chart.
#[derive(Debug, Clone)]
pub struct Line {
    /// What it stands for.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
}

/// One axis of a chart.
#[derive(Debug, Clone)]
pub struct Axis {
    /// What it counts; empty where the labels say it.
    pub name: String,
    /// Its scale.
    pub scale: Scale,
    /// A value as its label.
    pub label: fn(f64) -> String,
}

/// How values are spread over an axis.
#[derive(Debug, Clone)]
pub enum Scale {
    /// From 0, or from the smallest value if that is less, to the largest.
    FromZero,
    /// From the smallest to the largest value, in equal ratios; values must be more than 0.
    Logarithmic,
    /// From 0 to this.
    UpTo(f64),
    /// Places 0, 1, … with these names.
    Named(Vec<String>),
}

/// An axis with its ends and labels, in the numbers that are drawn.
struct Range {
    from: f64,
    to: f64,
    ticks: Vec<f64>,
}

impl Plot {
    /// Draws it.
    ///
    /// # Errors
    ///
    /// [`Error::Report`] if it cannot be drawn.
    pub fn draw(&self) -> Result<Chart, Error> {
        let [wide, narrow] = WIDTHS;
        Ok(Chart {
            title: self.title.clone(),
            explanation: self.explanation.clone(),
            key: self.drawn().map(|line| line.name.clone()).collect(),
            wide: self.svg(wide)?,
            narrow: self.svg(narrow)?,
        })
    }

    fn drawn(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().take(MOST_LINES)
    }

    fn svg(&self, width: u32) -> Result<String, Error> {
        let mut text = String::new();
        {
            let area = SVGBackend::with_string(&mut text, (width, HEIGHT)).into_drawing_area();
            self.draw_on(&area, width)?;
            area.present().map_err(refused)?;
        }
        Ok(text)
    }

    fn draw_on(&self, area: &DrawingArea<SVGBackend<'_>, Shift>, width: u32) -> Result<(), Error> {
        let most = if width > 500 { 10 } else { 5 };
        let all = || self.drawn().flat_map(|line| line.points.iter());
        let x = self.x.range(all().map(|point| point.0), most);
        let y = self.y.range(all().map(|point| point.1), 6);
        let mut builder = ChartBuilder::on(area);
        builder.margin(6).margin_right(if width > 500 { 18 } else { 14 });
        builder
            .x_label_area_size(if self.x.name.is_empty() { 24 } else { 38 })
            .y_label_area_size(if width > 500 { 66 } else { 58 });
        let labels = (x.ticks.len(), y.ticks.len());
        let mut plane = builder.build_cartesian_2d(x, y).map_err(refused)?;
        plane
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID)
            .light_line_style(GRID.mix(0.0))
            .axis_style(GRID)
            .x_desc(self.x.name.clone())
            .x_labels(labels.0)
            .x_label_formatter(&|at| self.x.label_at(*at))
            .y_desc("")
            .y_labels(labels.1)
            .y_label_formatter(&|at| self.y.label_at(*at))
            .label_style(("sans-serif", 13, &INK))
            .draw()
            .map_err(refused)?;
        let lines: Vec<_> = self.drawn().zip(SERIES).collect();
        // The first one is drawn last: over all others.
        for (line, color) in lines.into_iter().rev() {
            let points = || line.points.iter().map(|&(at, value)| (self.x.place(at), self.y.place(value)));
            plane.draw_series(LineSeries::new(points(), color.stroke_width(2))).map_err(refused)?;
            if self.has_dots {
                let dots = points().map(|point| Circle::new(point, 3, color.filled()));
                plane.draw_series(dots).map_err(refused)?;
            }
        }
        Ok(())
    }
}

impl Ranged for Range {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        first + ((value - self.from) / (self.to - self.from) * f64::from(last - first)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.from..self.to
    }
}

impl Axis {
    /// An axis.
    pub fn new(name: &str, scale: Scale, label: fn(f64) -> String) -> Self {
        Self { name: name.to_owned(), scale, label }
    }

    /// Where a value is drawn.
    fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Logarithmic => value.max(f64::MIN_POSITIVE).log10(),
            _ => value,
        }
    }

    fn label_at(&self, place: f64) -> String {
        match &self.scale {
            Scale::Logarithmic => (self.label)(10_f64.powf(place)),
            Scale::Named(names) => names.get(place.round() as usize).cloned().unwrap_or_default(),
            Scale::FromZero | Scale::UpTo(_) => (self.label)(place),
        }
    }

    /// The ends of the axis for these values, with `most` labels or fewer.
    fn range(&self, values: impl Iterator<Item = f64>, most: usize) -> Range {
        let (least, greatest) = values
            .filter(|value| value.is_finite())
            .map(|value| self.place(value))
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, greatest), value| {
                (least.min(value), greatest.max(value))
            });
        let (least, greatest) = if least <= greatest { (least, greatest) } else { (0.0, 1.0) };
        match &self.scale {
            Scale::FromZero => {
                let from = least.min(0.0);
                let to = if greatest > from { greatest } else { from + 1.0 };
                Range { from, to: to + (to - from) * 0.05, ticks: even_ticks(from, to, most) }
            }
            Scale::UpTo(end) => Range { from: 0.0, to: *end, ticks: even_ticks(0.0, *end, most) },
            Scale::Logarithmic => {
                let (from, to) = (least - 0.05, greatest + 0.1);
                Range { from, to, ticks: logarithmic_ticks(from, to, most) }
            }
            Scale::Named(names) => {
                let last = names.len().saturating_sub(1) as f64;
                let step = names.len().div_ceil(most).max(1);
                let ticks = (0..names.len()).step_by(step).map(|at| at as f64).collect();
                Range { from: -0.3, to: last + 0.3, ticks }
            }
        }
    }
}

/// Multiples of 1, 2 or 5 times a power of ten.
fn even_ticks(from: f64, to: f64, most: usize) -> Vec<f64> {
    let power = 10_f64.powf(((to - from) / most.max(1) as f64).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    let count = |step: f64| (to / step + 1e-9).floor() - (from / step - 1e-9).ceil() + 1.0;
    let step = steps.into_iter().find(|&step| count(step) <= most as f64).unwrap_or(10.0 * power);
    let first = (from / step - 1e-9).ceil();
    (0..count(step).max(0.0) as u32).map(|at| (first + f64::from(at)) * step).collect()
}

/// Decimal logarithms of 1, 2 and 5 times powers of ten, or of fewer of them if those are too many.
fn logarithmic_ticks(from: f64, to: f64, most: usize) -> Vec<f64> {
    let within = |factors: &[f64]| {
        let powers = from.floor() as i32..=to.ceil() as i32;
        let all =
            powers.flat_map(|power| factors.iter().map(move |factor| f64::from(power) + factor.log10()));
        all.filter(|place| (from..=to).contains(place)).collect::<Vec<_>>()
    };
    let choices = [within(&[1.0, 2.0, 5.0]), within(&[1.0, 3.0]), within(&[1.0])];
    match choices.iter().find(|ticks| ticks.len() <= most).or(choices.last()) {
        Some(ticks) if ticks.len() > 2 => ticks.clone(),
        // Over less than a power of ten the scale is nearly even.
        _ => {
            let even = even_ticks(10_f64.powf(from), 10_f64.powf(to), most);
            even.into_iter().filter(|value| *value > 0.0).map(f64::log10).collect()
        }
    }
}

fn refused(error: impl std::fmt::Display) -> Error {
    Error::Report(format!("cannot draw a chart: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_round_numbers() {
        assert_eq!(even_ticks(0.0, 1.0, 6), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(even_ticks(0.0, 730.0, 6), [0.0, 200.0, 400.0, 600.0]);
        let values: Vec<_> =
            logarithmic_ticks(-1.1, 0.8, 9).iter().map(|place| 10_f64.powf(*place)).collect();
        assert_eq!(values.len(), 6, "{values:?}");
        assert!((values[1] - 0.2).abs() < 1e-9);
        assert_eq!(logarithmic_ticks(-0.1, 0.1, 6).len(), 5, "0.8, 0.9, … 1.2");
    }

    #[test]
    fn names_are_escaped_and_lines_have_their_colours() {
        let line = |name: &str| Line { name: name.to_owned(), points: vec![(0.0, 1.0), (1.0, 2.0)] };
        let plot = Plot {
            title: "t".to_owned(),
            explanation: String::new(),
            x: Axis::new("", Scale::Named(vec!["<script>".to_owned(), "b".to_owned()]), |_| String::new()),
            y: Axis::new("seconds", Scale::Logarithmic, |value| format!("{value:.1}")),
            lines: vec![line("a"), line("b")],
            has_dots: true,
        };
        let chart = plot.draw().unwrap();
        assert_eq!(chart.key, ["a", "b"]);
        for svg in [&chart.wide, &chart.narrow] {
            assert!(svg.contains("&lt;script&gt;") && !svg.contains("<script>"), "{svg}");
            assert!(svg.contains("#2459C4") && svg.contains("#B4560B"), "{svg}");
        }
    }
}
