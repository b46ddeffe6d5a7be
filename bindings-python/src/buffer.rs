//! Bytes and token ids in whatever form Python holds them, without a look at each element where their layout allows it.
//!
//! The stable interface of Python 3.10 has no buffers yet, so what is not `bytes` is copied once, in one piece.

use p3sched::Error;
use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView, PyString};

use crate::error::Failure;

/// The bytes of `bytes`, which are borrowed, or of anything else with the buffer protocol, which are copied.
pub(crate) struct Buffer(PyBackedBytes);

impl std::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl<'py> FromPyObject<'_, 'py> for Buffer {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = value.cast::<PyBytes>() {
            return Ok(Self(bytes.to_owned().into()));
        }
        Ok(Self(copied(&PyMemoryView::from(&value)?)?))
    }
}

/// Token ids: a buffer of whole numbers (`array`, numpy, …) or a sequence of `int`.
pub(crate) struct TokenIds(pub(crate) Vec<u32>);

impl<'py> FromPyObject<'_, 'py> for TokenIds {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if value.is_instance_of::<PyBytes>() || value.is_instance_of::<PyByteArray>() {
            return Err(Failure::type_error("token ids must be numbers, use `text` for bytes").into());
        }
        match PyMemoryView::from(&value) {
            Ok(view) => Ok(Self(from_view(&view)?)),
            Err(_) => value.extract().map(Self).map_err(|_| wrong_element(&value).into()),
        }
    }
}

/// Why a sequence holds no token ids: its first element that is none.
fn wrong_element(value: &Bound<'_, PyAny>) -> Failure {
    let items = value.try_iter().into_iter().flatten().flatten();
    let wrong = items.filter_map(|item| item.extract::<u32>().err().map(|error| (item, error))).next();
    let Some((item, error)) = wrong.filter(|_| !value.is_instance_of::<PyString>()) else {
        let found = value.get_type();
        return Failure::type_error(format!(
            "token ids must be a buffer of whole numbers or a sequence of `int`: `{found}`"
        ));
    };
    let found = item.repr().map_or_else(|_| String::new(), |repr| repr.to_string());
    if error.is_instance_of::<PyOverflowError>(value.py()) {
        return out_of_range(&found);
    }
    Failure::type_error(format!("token ids must be whole numbers: `{found}`"))
}

fn from_view(view: &Bound<'_, PyMemoryView>) -> Result<Vec<u32>, Failure> {
    let format: String = view.getattr("format")?.extract()?;
    let size: usize = view.getattr("itemsize")?.extract()?;
    let dimensions: usize = view.getattr("ndim")?.extract()?;
    if dimensions != 1 {
        return Err(Failure::type_error(format!("token ids must have one dimension: `{dimensions}`")));
    }
    let bytes = copied(view)?;
    let native =
        format.trim_start_matches(['@', '=', if cfg!(target_endian = "little") { '<' } else { '>' }]);
    match (native, size) {
        ("I" | "L", 4) => Ok(elements(&bytes, u32::from_ne_bytes)),
        ("i" | "l", 4) => {
            narrowed(&bytes, true, |bytes| i64::from(i32::from_ne_bytes(bytes)).cast_unsigned())
        }
        ("q" | "l" | "n", 8) => narrowed(&bytes, true, u64::from_ne_bytes),
        ("Q" | "L" | "N", 8) => narrowed(&bytes, false, u64::from_ne_bytes),
        ("H", 2) => Ok(elements(&bytes, |bytes| u16::from_ne_bytes(bytes).into())),
        _ => Err(Failure::type_error(format!(
            "token ids must be whole numbers of 2, 4 or 8 bytes: `{format}`"
        ))),
    }
}

fn copied(view: &Bound<'_, PyMemoryView>) -> PyResult<PyBackedBytes> {
    Ok(view.call_method0("tobytes")?.cast_into::<PyBytes>()?.into())
}

fn elements<const SIZE: usize>(bytes: &[u8], element: impl Fn([u8; SIZE]) -> u32) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|bytes| element(*bytes)).collect()
}

/// Checks all elements together first, so that neither pass has a branch per element.
fn narrowed<const SIZE: usize>(
    bytes: &[u8],
    is_signed: bool,
    widened: impl Fn([u8; SIZE]) -> u64,
) -> Result<Vec<u32>, Failure> {
    let values = || bytes.as_chunks().0.iter().map(|bytes| widened(*bytes));
    let bits = values().fold(0, |bits, value| bits | value);
    if bits <= u64::from(u32::MAX) {
        return Ok(values().map(|value| value as u32).collect());
    }
    let wrong = values().find(|&value| value > u64::from(u32::MAX)).unwrap_or(bits);
    Err(out_of_range(&if is_signed { wrong.cast_signed().to_string() } else { wrong.to_string() }))
}

fn out_of_range(value: &str) -> Failure {
    Error::InvalidRequest(format!("token ids must be 0 to {}: `{value}`", u32::MAX)).into()
}
