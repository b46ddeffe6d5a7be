//! What goes wrong becomes an exception.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyType;

/// Why a call failed.
pub(crate) enum Failure {
    /// The core refused it.
    Core(p3sched::Error),
    /// Python did, or the arguments have another type.
    Python(PyErr),
}

impl Failure {
    /// An argument has a type that cannot be used; the message says what would be right.
    pub(crate) fn type_error(message: impl Into<String>) -> Self {
        Self::Python(PyTypeError::new_err(message.into()))
    }
}

impl From<p3sched::Error> for Failure {
    fn from(error: p3sched::Error) -> Self {
        Self::Core(error)
    }
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Self {
        Self::Python(error)
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Core(error) => {
                Python::attach(|py| exception(py, &error).unwrap_or_else(|broken| broken))
            }
            Failure::Python(error) => error,
        }
    }
}

/// The exception whose class is named like the error's code.
fn exception(py: Python<'_>, error: &p3sched::Error) -> PyResult<PyErr> {
    let classes = py.import("p3sched.errors")?;
    let class = classes.getattr(error.code()).or_else(|_| classes.getattr("Error"))?;
    Ok(PyErr::from_type(class.cast_into::<PyType>()?, error.to_string()))
}
