//! `Route`: a pick that completes by itself.

use std::sync::atomic::{AtomicU64, Ordering};

use p3sched::Outcome;
use pyo3::prelude::*;

use crate::buffer::Buffer;
use crate::clock;
use crate::decision::Decision;
use crate::error::Failure;
use crate::scheduler::Scheduler;

/// What ``Scheduler.route`` gives: use it in a ``with`` statement.
#[pyclass(frozen, module = "p3sched")]
pub(crate) struct Route {
    scheduler: Py<Scheduler>,
    path: String,
    body: Buffer,
    explain: Option<bool>,
    /// The request in flight, 0 outside of the `with` statement.
    id: AtomicU64,
}

impl Route {
    pub(crate) fn new(scheduler: Py<Scheduler>, path: String, body: Buffer, explain: Option<bool>) -> Self {
        Self { scheduler, path, body, explain, id: AtomicU64::new(0) }
    }
}

#[pymethods]
impl Route {
    fn __enter__(&self, py: Python<'_>) -> Result<Decision, Failure> {
        let decision =
            self.scheduler.get().pick_body(py, &self.path, &self.body, self.explain, clock::now())?;
        self.id.store(decision.id, Ordering::Release);
        Ok(Decision::new(decision))
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
        let id = self.id.swap(0, Ordering::AcqRel);
        Ok(self.scheduler.get().core.complete(id, outcome, clock::now())?)
    }
}
