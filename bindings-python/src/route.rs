//! `Route`: a pick that completes by itself.

use std::sync::atomic::{AtomicU64, Ordering};

use p3sched::Outcome;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::buffer::Buffer;
use crate::clock;
use crate::decision::Decision;
use crate::error::Failure;
use crate::scheduler::Scheduler;

/// The statement has not begun, or is over.
const OUTSIDE: u64 = 0;
/// The pick is under way; no request has this id.
const ENTERING: u64 = u64::MAX;

/// What ``Scheduler.route`` gives: use it in a ``with`` statement.
#[pyclass(frozen, module = "p3sched")]
pub(crate) struct Route {
    scheduler: Py<Scheduler>,
    path: String,
    body: Buffer,
    explain: Option<bool>,
    /// The request in flight, `OUTSIDE` of the `with` statement, or `ENTERING` it.
    id: AtomicU64,
}

impl Route {
    pub(crate) fn new(scheduler: Py<Scheduler>, path: String, body: Buffer, explain: Option<bool>) -> Self {
        Self { scheduler, path, body, explain, id: AtomicU64::new(OUTSIDE) }
    }
}

#[pymethods]
impl Route {
    fn __enter__(&self, py: Python<'_>) -> Result<Decision, Failure> {
        // Taken before the pick, so that of two threads one books nothing.
        if self.id.compare_exchange(OUTSIDE, ENTERING, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return Err(PyRuntimeError::new_err(
                "a route serves one `with` statement at a time: call `route` again for each",
            )
            .into());
        }
        let picked = self.scheduler.get().pick_body(py, &self.path, &self.body, self.explain, clock::now());
        let id = picked.as_ref().map_or(OUTSIDE, |decision| decision.id);
        self.id.store(id, Ordering::Release);
        Ok(Decision::new(picked?))
    }

    #[pyo3(signature = (exception_type, exception, traceback, /))]
    #[expect(unused_variables, reason = "Python passes them")]
    fn __exit__(
        &self,
        exception_type: Option<&Bound<'_, PyAny>>,
        exception: Option<&Bound<'_, PyAny>>,
        traceback: Option<&Bound<'_, PyAny>>,
    ) -> Result<(), Failure> {
        let outcome = Outcome { success: exception_type.is_none(), ..Outcome::default() };
        let id = self.id.swap(OUTSIDE, Ordering::AcqRel);
        Ok(self.scheduler.get().core.complete(id, outcome, clock::now())?)
    }
}
