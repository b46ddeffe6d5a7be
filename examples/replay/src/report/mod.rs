//! Results as one HTML file that needs nothing else: it works offline, in light and dark, on a phone.
//!
//! A [`Report`] is made of [sections](Section) of [blocks](Block). [`of_policies`] makes one of policies that were
//! compared; names from elsewhere are escaped when it is [written](Report::write).

pub mod chart;
mod decisions;
pub mod format;
mod page;
mod policies;
mod policy;
mod sweeps;
#[cfg(test)]
mod tests;
mod what_if;

use serde::Serialize;

use chart::Chart;

pub use policies::{About, Shown, of_policies};
pub use sweeps::{meaning as meaning_of_sweeps, of_sweeps, sentence, value_text};
pub use what_if::of_answers;

/// A page.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What it is about.
    pub title: String,
    /// What it shows, in a sentence or two.
    pub meaning: String,
    /// How to get it again.
    pub command: String,
    /// What follows, in order.
    pub sections: Vec<Section>,
}

/// A part with a head that the table of contents names.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Section {
    /// Its head.
    pub title: String,
    /// What is in it.
    pub blocks: Vec<Block>,
}

/// A piece of a section.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Block {
    /// A paragraph.
    Text {
        /// Its words.
        text: String,
    },
    /// A head within the section.
    Head {
        /// Its words.
        text: String,
    },
    /// Figures side by side.
    Tiles {
        /// The figures.
        tiles: Vec<Tile>,
    },
    /// A chart.
    Chart {
        /// The chart.
        chart: Chart,
    },
    /// A table.
    Table {
        /// The table.
        table: Table,
    },
    /// A bar per replica and row.
    Loads {
        /// The rows.
        rows: Vec<LoadRow>,
    },
    /// Text in a monospaced font.
    Code {
        /// The text.
        text: String,
    },
    /// What is hidden until it is asked for.
    Details {
        /// What is seen.
        summary: String,
        /// What is hidden.
        blocks: Vec<Block>,
    },
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tile {
    /// What it is.
    pub name: String,
    /// Its value with its unit.
    pub value: String,
    /// How sure it is, or what to compare it with.
    pub note: String,
}

/// A table; cells are texts with their units.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Table {
    /// Heads of the columns.
    pub head: Vec<String>,
    /// The rows.
    pub rows: Vec<Row>,
    /// Whether its cells hold words in place of numbers.
    pub is_prose: bool,
}

/// A row of a table.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Row {
    /// The cells.
    pub cells: Vec<Cell>,
    /// Whether it is the one that others are compared with.
    pub is_marked: bool,
}

/// A cell of a table.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Cell {
    /// What it says.
    pub text: String,
    /// Less important words below.
    pub note: String,
    /// Whether it is the best of its column.
    pub is_best: bool,
    /// Length of a bar in [0, 1]; `None` for no bar.
    pub bar: Option<f64>,
}

/// What each replica bore under one policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoadRow {
    /// The policy.
    pub name: String,
    /// The replicas, in order.
    pub loads: Vec<Load>,
    /// The row in words.
    pub note: String,
}

/// What one replica bore.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Load {
    /// Length of its bar in [0, 1].
    pub height: f64,
    /// Its name and value.
    pub title: String,
}

impl Section {
    /// A section with these blocks.
    pub fn new(title: impl Into<String>, blocks: Vec<Block>) -> Self {
        Self { title: title.into(), blocks }
    }
}

impl Block {
    /// A paragraph.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into() }
    }

    /// A head within the section.
    pub fn head(text: impl Into<String>) -> Self {
        Self::Head { text: text.into() }
    }

    /// What is hidden until it is asked for.
    pub fn details(summary: impl Into<String>, blocks: Vec<Self>) -> Self {
        Self::Details { summary: summary.into(), blocks }
    }
}

impl Tile {
    /// A figure.
    pub fn new(name: impl Into<String>, value: impl Into<String>, note: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into(), note: note.into() }
    }
}

impl Table {
    /// An empty table.
    pub fn new<'a>(head: impl IntoIterator<Item = &'a str>) -> Self {
        Self { head: head.into_iter().map(str::to_owned).collect(), ..Self::default() }
    }

    /// The same table for cells that hold words in place of numbers.
    #[must_use]
    pub fn prose(self) -> Self {
        Self { is_prose: true, ..self }
    }
}

impl Cell {
    /// A cell that says this.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// Adds less important words below.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Adds a bar of this length in [0, 1].
    #[must_use]
    pub fn bar(mut self, length: f64) -> Self {
        self.bar = Some(length.clamp(0.0, 1.0));
        self
    }
}
