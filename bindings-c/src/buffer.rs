//! Bytes and texts that the caller keeps.

use std::ffi::c_char;
use std::ptr;

use serde::Serialize;

use crate::ffi;
use crate::status::{Failure, json_failure};

/// Bytes that the library made: a snapshot, or a JSON text.
pub struct Buffer {
    /// One NUL more than belongs to the contents.
    bytes: Vec<u8>,
}

impl Buffer {
    pub(crate) fn from_bytes(mut bytes: Vec<u8>) -> Self {
        bytes.push(0);
        Self { bytes }
    }

    pub(crate) fn from_json(value: &impl Serialize) -> Result<Self, Failure> {
        let json = serde_json::to_vec(value);
        json.map(Self::from_bytes).map_err(|error| json_failure(p3sched::Error::InvalidConfig, error))
    }
}

/// First byte of a buffer's contents; one NUL stands behind the last, so that a JSON text is a C string. The bytes belong to
/// the buffer and are valid until it is freed; NULL gives NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_buffer_data(buffer: *const Buffer) -> *const c_char {
    // SAFETY: a pointer that is not NULL is a buffer that was not freed, as the contract says.
    unsafe { buffer.as_ref() }.map_or(ptr::null(), |buffer| buffer.bytes.as_ptr().cast())
}

/// Length of a buffer's contents in bytes, without the NUL behind them; NULL gives 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_buffer_length(buffer: *const Buffer) -> usize {
    // SAFETY: a pointer that is not NULL is a buffer that was not freed, as the contract says.
    unsafe { buffer.as_ref() }.map_or(0, |buffer| buffer.bytes.len().saturating_sub(1))
}

/// Frees a buffer; NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p3sched_buffer_free(buffer: *mut Buffer) {
    // SAFETY: the caller hands the buffer back and does not use it any more, as the contract says.
    unsafe { ffi::free(buffer) }
}
