//! Time, where the caller gives none.

use std::sync::LazyLock;
use std::time::Instant;

use p3sched::Error;

use crate::number::sequence;

/// What all schedulers of the process count from.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The time that the caller gives, or else that of a monotonic clock, in nanoseconds.
pub(crate) fn time(given: Option<f64>) -> Result<u64, Error> {
    match given {
        None => Ok(u64::try_from(ORIGIN.elapsed().as_nanos()).unwrap_or(u64::MAX)),
        Some(time) => sequence("now", time),
    }
}
