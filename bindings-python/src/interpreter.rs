//! When a call gives the interpreter's lock away.

use pyo3::Python;
use pyo3::marker::Ungil;

/// Bytes of input from which on a call takes longer than a few dozen microseconds.
const LARGE: usize = 64 * 1024;

/// Does the work on `bytes` bytes of input, and lets other threads run meanwhile if that is worth it.
pub(crate) fn lend<T: Ungil>(py: Python<'_>, bytes: usize, work: impl FnOnce() -> T + Ungil) -> T {
    if bytes < LARGE { work() } else { py.detach(work) }
}
