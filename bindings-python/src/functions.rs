//! Functions that need no scheduler.

use p3sched::EndpointMetrics;
use p3sched::block_hash::BlockHasher;
use pyo3::prelude::*;

use crate::buffer::Buffer;
use crate::error::Failure;
use crate::json;
use crate::request::Request;

/// Names of all presets.
///
/// ```python
/// >>> import p3sched
/// >>> p3sched.presets()[0]
/// 'default'
///
/// ```
#[pyfunction]
pub(crate) fn presets() -> Vec<&'static str> {
    p3sched::preset::names().collect()
}

/// The load that an engine's metrics page (Prometheus text) reports, as ``Scheduler.observe`` takes it.
///
/// Raises ``InvalidMetrics`` if no line belongs to a known engine, or one that matters is malformed.
///
/// ```python
/// >>> import p3sched
/// >>> p3sched.parse_metrics(b"vllm:num_requests_waiting 3\n")["waiting_requests"]
/// 3.0
///
/// ```
#[pyfunction]
pub(crate) fn parse_metrics(py: Python<'_>, page: Buffer) -> Result<Bound<'_, PyAny>, Failure> {
    Ok(json::to_python(py, &EndpointMetrics::from_page(&*page)?)?)
}

/// The chained hashes of the request's full blocks, first block first.
///
/// ```python
/// >>> import p3sched
/// >>> len(p3sched.block_hashes(p3sched.Request("llama", text="x" * 150)))
/// 2
///
/// ```
#[pyfunction]
#[pyo3(signature = (request, *, block_size_tokens=None, bytes_per_token=None, max_prefix_tokens=None))]
pub(crate) fn block_hashes(
    request: &Bound<'_, Request>,
    block_size_tokens: Option<u32>,
    bytes_per_token: Option<u32>,
    max_prefix_tokens: Option<u32>,
) -> Result<Vec<u64>, Failure> {
    let default = BlockHasher::default();
    let hasher = BlockHasher::new(
        block_size_tokens.unwrap_or(default.block_tokens()),
        bytes_per_token.unwrap_or(default.bytes_per_token()),
        max_prefix_tokens,
    )?;
    let mut hashes = Vec::new();
    hasher.hash(&request.get().0, &mut hashes);
    Ok(hashes)
}
