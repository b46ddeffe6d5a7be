//! `KvEventBatch`: what an engine reports about its KV cache.

use p3sched::Error;
use pyo3::prelude::*;

use crate::buffer::Buffer;
use crate::error::Failure;
use crate::interpreter::lend;
use crate::json;

/// KV events that an engine published together.
///
/// Read one with ``KvEventBatch.decode`` from a message of the engine's event socket, and give it to
/// ``Scheduler.apply_kv_batch``, which takes a plain dict as well.
#[pyclass(frozen, eq, module = "p3sched")]
#[derive(PartialEq)]
pub(crate) struct KvEventBatch(pub(crate) p3sched::KvEventBatch);

#[pymethods]
impl KvEventBatch {
    /// Reads the payload (``MessagePack``) of a message that vLLM or SGLang published, with the sequence number beside it.
    ///
    /// Raises ``InvalidKvEvent`` if it cannot be read.
    ///
    /// ```python
    /// >>> from p3sched import KvEventBatch
    /// >>> payload = b"\x93\xcb\x40\x59\0\0\0\0\0\0\x91\x91\xb0AllBlocksCleared\x01"
    /// >>> batch = KvEventBatch.decode(payload, 7)
    /// >>> batch.to_dict()
    /// {'sequence': 7, 'timestamp': 100.0, 'rank': 1, 'events': [{'type': 'cleared'}]}
    ///
    /// ```
    #[staticmethod]
    fn decode(py: Python<'_>, payload: Buffer, sequence: u64) -> Result<Self, Failure> {
        Ok(Self(lend(py, payload.len(), || p3sched::KvEventBatch::decode(&payload, sequence))?))
    }

    /// Number of the batch in its stream.
    #[getter]
    fn sequence(&self) -> u64 {
        self.0.sequence
    }

    /// When the engine published it, in seconds of its own clock; 0 if unknown.
    #[getter]
    fn timestamp(&self) -> f64 {
        self.0.timestamp
    }

    /// Data-parallel rank of the engine.
    #[getter]
    fn rank(&self) -> u32 {
        self.0.rank
    }

    /// How many events it holds.
    fn __len__(&self) -> usize {
        self.0.events.len()
    }

    /// The batch as a plain dict, as ``Scheduler.apply_kv_batch`` takes it.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        json::to_python(py, &self.0)
    }

    fn __repr__(&self) -> String {
        let p3sched::KvEventBatch { sequence, rank, events, .. } = &self.0;
        format!("<KvEventBatch sequence={sequence} rank={rank} events={}>", events.len())
    }
}

/// The batch that an argument stands for: one that was decoded, or a dict.
pub(crate) fn with_batch<T>(
    value: &Bound<'_, PyAny>,
    apply: impl FnOnce(&p3sched::KvEventBatch) -> Result<T, Failure>,
) -> Result<T, Failure> {
    match value.cast::<KvEventBatch>() {
        Ok(batch) => apply(&batch.get().0),
        Err(_) => apply(&json::from_python(value, Error::InvalidKvEvent)?),
    }
}
