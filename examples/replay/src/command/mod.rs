//! What `replay` can be asked to do, one file per subcommand.

pub(crate) mod goals;
pub(crate) mod run;
mod setup;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that counts requests.
fn progress_bar(requests: u64) -> anyhow::Result<ProgressBar> {
    let style =
        ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} requests, {elapsed}, {eta} left")?;
    let bar = ProgressBar::new(requests).with_style(style);
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    Ok(bar)
}
