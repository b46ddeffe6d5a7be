//! p3sched for C: a layer that only translates between the crate `p3sched` and `p3sched.h`.
//!
//! The contract that every function keeps, and that every caller has to keep, is the first comment of the header, which is
//! generated from this crate.
//! The modules stand in the order of the header, which blank lines keep from being sorted.

#![expect(
    unsafe_code,
    reason = "the C ABI: pointers are trusted in `ffi`, as the contract in the header allows"
)]
#![expect(
    clippy::missing_safety_doc,
    reason = "the contract of all functions is the first comment of the header"
)]

#[macro_use]
mod ffi;

mod status;

mod scheduler;

mod metrics;

mod kv_events;

mod pick;

mod decision;

mod usage;

mod buffer;

#[cfg(test)]
mod panic_tests;

pub use buffer::*;
pub use decision::*;
pub use kv_events::*;
pub use metrics::*;
pub use pick::*;
pub use scheduler::*;
pub use status::*;
pub use usage::*;

/// Version of the package, the same for every package of the workspace.
pub const VERSION: &str = p3sched::VERSION;
