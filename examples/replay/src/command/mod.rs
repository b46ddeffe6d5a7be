//! What `replay` can be asked to do, one file per subcommand.

pub(crate) mod goals;
pub(crate) mod run;
mod setup;
pub(crate) mod sweeps;
pub(crate) mod tune;
pub(crate) mod validate;
pub(crate) mod what_if;

use indicatif::{ProgressBar, ProgressStyle};

/// What was asked for, to be asked again.
fn command_line() -> String {
    std::iter::once("replay".to_owned()).chain(std::env::args().skip(1)).collect::<Vec<_>>().join(" ")
}

/// A bar that counts requests.
fn progress_bar(requests: u64) -> anyhow::Result<ProgressBar> {
    let style =
        ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} requests, {elapsed}, {eta} left")?;
    let bar = ProgressBar::new(requests).with_style(style);
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    Ok(bar)
}
