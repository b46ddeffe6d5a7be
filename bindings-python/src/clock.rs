//! The time that calls carry when their caller names none.

use std::sync::OnceLock;
use std::time::Instant;

use pyo3::prelude::*;

/// The same moment on the clock that is quick to read here, and on Python's.
static ORIGIN: OnceLock<(Instant, u64)> = OnceLock::new();

/// Sets the clock by `time.monotonic_ns()`, so that both may be used together.
pub(crate) fn start(py: Python<'_>) -> PyResult<()> {
    let nanoseconds = py.import("time")?.call_method0("monotonic_ns")?.extract()?;
    ORIGIN.get_or_init(|| (Instant::now(), nanoseconds));
    Ok(())
}

/// Nanoseconds, as `time.monotonic_ns()` counts them.
pub(crate) fn now() -> u64 {
    let Some((instant, nanoseconds)) = ORIGIN.get() else { return 0 };
    nanoseconds + instant.elapsed().as_nanos() as u64
}
