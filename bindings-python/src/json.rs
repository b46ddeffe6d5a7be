//! Plain data crosses as JSON, so that it is the same in every language down to the last digit.
//!
//! Off the path of a pick only: configurations, metrics, events, explanations, statistics.

use p3sched::Error;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Failure;
use crate::reason::reason;

/// Dicts, lists, numbers and texts for a value of the core.
pub(crate) fn to_python<'py>(py: Python<'py>, value: &impl Serialize) -> PyResult<Bound<'py, PyAny>> {
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let text = serde_json::to_string(value).map_err(|error| Failure::type_error(error.to_string()))?;
    LOADS.import(py, "json", "loads")?.call1((text,))
}

/// The value of the core that dicts, lists, numbers and texts stand for; `invalid` makes the error of what cannot be one.
pub(crate) fn from_python<T: DeserializeOwned>(
    value: &Bound<'_, PyAny>,
    invalid: fn(String) -> Error,
) -> Result<T, Failure> {
    static DUMPS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let text = DUMPS.import(value.py(), "json", "dumps")?.call1((value,))?;
    let text: &str = text.extract()?;
    serde_json::from_str(text).map_err(|error| invalid(reason(text, &error)).into())
}
