//! Whole numbers, which JavaScript has among all others only.

use std::fmt::Display;

use p3sched::Error;

/// 2⁵³ - 1: beyond it not every integer is a JavaScript number.
const SAFE: f64 = 9_007_199_254_740_991.0;

/// The number of an argument or a field, if it is a whole one from `low` to `high`.
pub(crate) fn within<T: TryFrom<i64> + PartialOrd + Display>(
    name: &str,
    number: f64,
    low: T,
    high: T,
) -> Result<T, Error> {
    let is_whole = number.fract() == 0.0 && (-SAFE..=SAFE).contains(&number);
    let whole = is_whole.then_some(number as i64).and_then(|whole| T::try_from(whole).ok());
    whole.filter(|whole| (&low..=&high).contains(&whole)).ok_or_else(|| {
        let found = number.to_string().replace("inf", "Infinity");
        Error::InvalidRequest(format!("{name} must be a whole number from {low} to {high}: `{found}`"))
    })
}

/// A count.
pub(crate) fn count(name: &str, number: f64) -> Result<u32, Error> {
    within(name, number, 0, u32::MAX)
}

/// A number in a sequence.
pub(crate) fn sequence(name: &str, number: f64) -> Result<u64, Error> {
    within(name, number, 0, SAFE as u64)
}
