//! What engines report about their KV caches.

use napi::bindgen_prelude::*;
use napi_derive::napi;
use p3sched::Error;
use serde_json::Value;

use crate::error::{self, from_core};
use crate::{number, plain};

/// Events that an engine published together; they stay on the native side unless they are looked at.
#[napi]
pub struct KvEventBatch {
    pub(crate) core: p3sched::KvEventBatch,
}

#[napi]
impl KvEventBatch {
    /// A batch from its fields.
    #[napi(constructor, catch_unwind)]
    pub fn new(fields: Value) -> error::Result<Self> {
        Ok(Self { core: plain::read(fields, Error::InvalidKvEvent)? })
    }

    /// Reads the payload of a message that vLLM or SGLang published.
    #[napi(factory, catch_unwind)]
    pub fn decode(payload: Uint8ArraySlice<'_>, sequence: f64) -> error::Result<Self> {
        let batch = number::sequence("sequence", sequence)
            .and_then(|sequence| p3sched::KvEventBatch::decode(&payload, sequence));
        Ok(Self { core: batch.map_err(from_core)? })
    }

    /// Number of the batch in its stream.
    #[napi(getter, catch_unwind)]
    pub fn sequence(&self) -> f64 {
        self.core.sequence as f64
    }

    /// When the engine published it, in seconds of its own clock.
    #[napi(getter, catch_unwind)]
    pub fn timestamp(&self) -> f64 {
        self.core.timestamp
    }

    /// Data-parallel rank of the engine.
    #[napi(getter, catch_unwind)]
    pub fn rank(&self) -> u32 {
        self.core.rank
    }

    /// The events, as plain objects that are made anew by every look.
    #[napi(getter, catch_unwind, ts_return_type = "Array<any>")]
    pub fn events(&self) -> error::Result<Value> {
        plain::write(&self.core.events)
    }
}
