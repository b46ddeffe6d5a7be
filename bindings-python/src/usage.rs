//! `UsageScanner`: what an answer says about the tokens it took.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::buffer::Buffer;

/// Finds the usage in an answer that passes by in chunks of any size, JSON or server-sent events.
///
/// Use one per answer, and give ``complete`` what it found.
///
/// ```python
/// >>> from p3sched import UsageScanner
/// >>> scanner = UsageScanner()
/// >>> scanner.push(b'data: {"choices":[],"usage":{"prompt_tok')
/// >>> scanner.push(b'ens":13,"prompt_tokens_details":{"cached_tokens":8}}}')
/// >>> scanner.finish()
/// {'prompt_tokens': 13, 'completion_tokens': None, 'cached_tokens': 8}
///
/// ```
#[pyclass(module = "p3sched")]
// Boxed, since it holds vector registers and Python aligns objects to 16 bytes only.
pub(crate) struct UsageScanner(Box<p3sched::usage::UsageScanner>);

#[pymethods]
impl UsageScanner {
    #[new]
    fn new() -> Self {
        Self(Box::default())
    }

    /// Passes over the next bytes of the answer.
    fn push(&mut self, chunk: Buffer) {
        self.0.push(&chunk);
    }

    /// What the answer has said so far, as keyword arguments for ``complete``; ``None`` is what it did not say.
    fn finish<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let usage = self.0.finish();
        let fields = PyDict::new(py);
        fields.set_item("prompt_tokens", usage.prompt_tokens)?;
        fields.set_item("completion_tokens", usage.completion_tokens)?;
        fields.set_item("cached_tokens", usage.cached_tokens)?;
        Ok(fields)
    }
}
