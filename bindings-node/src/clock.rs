//! Time, where the caller gives none.

use std::sync::LazyLock;
use std::time::Instant;

use p3sched::Error;

/// 2⁵³: from here on not every integer is a JavaScript number.
const UNSAFE: f64 = 9_007_199_254_740_992.0;

/// What all schedulers of the process count from.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The time that the caller gives, or else that of a monotonic clock, in nanoseconds.
pub(crate) fn time(given: Option<f64>) -> Result<u64, Error> {
    match given {
        None => Ok(u64::try_from(ORIGIN.elapsed().as_nanos()).unwrap_or(u64::MAX)),
        Some(time) => whole(time).ok_or_else(|| {
            Error::InvalidRequest(format!("`now` must be whole nanoseconds from 0 to 2^53 - 1: `{time}`"))
        }),
    }
}

/// The id of a request.
pub(crate) fn request_id(id: f64) -> Result<u64, Error> {
    whole(id)
        .ok_or_else(|| Error::InvalidRequest(format!("an id must be a whole number of a decision: `{id}`")))
}

/// A number as an integer, if it is one from 0 to 2⁵³ - 1.
pub(crate) fn whole(number: f64) -> Option<u64> {
    let is_whole = number.fract() == 0.0 && (0.0..UNSAFE).contains(&number);
    is_whole.then_some(number as u64)
}
