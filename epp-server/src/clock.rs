//! The one clock of the process: nanoseconds since its first use, never going back.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// Nanoseconds since the first call in this process.
///
/// Every `now` that is handed to the scheduler comes from here, so that all of them share one origin.
pub fn now() -> u64 {
    nanoseconds(ORIGIN.get_or_init(Instant::now).elapsed())
}

/// A duration in nanoseconds; one that does not fit counts as the largest that does (584 years).
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
