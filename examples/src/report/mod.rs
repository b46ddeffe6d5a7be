//! What a run showed: the summary for programs, a table for the terminal, a page for people.

mod charts;
mod page;
mod summary;
mod table;

pub use page::write_page;
pub use summary::{Figures, Goal, LevelFigures, Summary, machine};
pub use table::print_table;

use std::time::Duration;

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
