//! Whole numbers as arguments, named where they do not fit.

use p3sched::Error;
use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;

use crate::clock;
use crate::error::Failure;

/// The types of whole numbers that calls take.
pub(crate) trait Whole: for<'a, 'py> FromPyObject<'a, 'py, Error = PyErr> {
    const RANGE: &'static str;
}

impl Whole for u32 {
    const RANGE: &'static str = "0 to 4294967295";
}

impl Whole for i32 {
    const RANGE: &'static str = "-2147483648 to 2147483647";
}

impl Whole for u64 {
    const RANGE: &'static str = "0 to 18446744073709551615";
}

/// The number that an argument stands for.
pub(crate) fn whole<T: Whole>(name: &str, value: &Bound<'_, PyAny>) -> Result<T, Failure> {
    value.extract::<T>().map_err(|error| {
        let found = value.repr().map_or_else(|_| value.get_type().to_string(), |repr| repr.to_string());
        let message = format!("{name} must be a whole number from {}: `{found}`", T::RANGE);
        if error.is_instance_of::<PyOverflowError>(value.py()) {
            return Error::InvalidRequest(message).into();
        }
        Failure::type_error(message)
    })
}

/// The number that an argument stands for, if it was given.
pub(crate) fn optional<T: Whole>(name: &str, value: Option<&Bound<'_, PyAny>>) -> Result<Option<T>, Failure> {
    value.map(|value| whole(name, value)).transpose()
}

/// The time that the caller names, or that of the clock.
pub(crate) fn time(now: Option<&Bound<'_, PyAny>>) -> Result<u64, Failure> {
    Ok(optional("now", now)?.unwrap_or_else(clock::now))
}
