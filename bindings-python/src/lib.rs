//! p3sched for Python: the native half, `p3sched._native`.
//!
//! It translates calls and values, and decides nothing: every default and every message is the core's. The package around it
//! is in `python/p3sched`. The documentation of what Python sees is written for Python, with examples that its tests run.
//!
//! # Where time goes
//!
//! Calls hold the interpreter's lock while they are short, since a thread that gives it away gets it back up to 5 ms later when
//! another one computes. What takes longer than a few dozen microseconds gives it away, see `interpreter`.

#![expect(
    clippy::needless_pass_by_value,
    clippy::too_many_arguments,
    reason = "arguments are made from those of Python, many of them keywords"
)]

mod buffer;
mod clock;
mod decision;
mod error;
mod functions;
mod interpreter;
mod json;
mod kv_events;
mod number;
mod reason;
mod request;
mod route;
mod scheduler;
mod usage;

use pyo3::prelude::*;

/// The native half of the package `p3sched`; use the package.
#[pymodule(gil_used = false, name = "_native")]
mod native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::decision::Decision;
    #[pymodule_export]
    use crate::functions::{block_hashes, parse_metrics, presets};
    #[pymodule_export]
    use crate::kv_events::KvEventBatch;
    #[pymodule_export]
    use crate::request::Request;
    #[pymodule_export]
    use crate::route::Route;
    #[pymodule_export]
    use crate::scheduler::Scheduler;
    #[pymodule_export]
    use crate::usage::UsageScanner;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::clock::start(module.py())?;
        module.add("__version__", p3sched::VERSION)
    }
}
