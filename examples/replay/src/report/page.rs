//! A report as text in HTML.

use std::path::Path;

use minijinja::{Environment, context};

use super::Report;
use super::chart::{GRID, INK, SERIES};
use crate::Error;

/// What each colour of the charts is on dark screens, in the order of the lines.
const DARK: [&str; SERIES.len()] =
    ["#86aefc", "#f0a35a", "#d69be8", "#6bd396", "#ff9b92", "#5fd3e8", "#d9c06a", "#a2acbd"];

impl Report {
    /// The page.
    ///
    /// # Errors
    ///
    /// [`Error::Report`] if the template does not fit.
    pub fn html(&self) -> Result<String, Error> {
        let refused = |error: minijinja::Error| Error::Report(format!("{error:#}"));
        let mut templates = Environment::new();
        // The name ends in .html, which switches escaping on.
        templates.add_template("report.html", include_str!("report.html")).map_err(refused)?;
        templates.add_template("blocks.html", include_str!("blocks.html")).map_err(refused)?;
        let hex =
            |color: plotters::style::RGBColor| format!("#{:02X}{:02X}{:02X}", color.0, color.1, color.2);
        let series: Vec<_> = SERIES.into_iter().map(hex).zip(DARK).collect();
        templates
            .get_template("report.html")
            .and_then(|template| {
                template.render(context! { report => self, series, ink => hex(INK), grid => hex(GRID) })
            })
            .map_err(refused)
    }

    /// Writes the page; the folder is made if need be.
    ///
    /// # Errors
    ///
    /// [`Error::Report`] if the template does not fit, [`Error::File`] if the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let page = self.html()?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let written =
            folder.map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(path, page));
        written.map_err(|error| Error::file(path, &error))
    }
}
