//! p3sched for Node.js: the native part of the npm package, private to it.
//!
//! The package's public face is `index.js`. Everything here translates between JavaScript and the core crate and decides
//! nothing. Each exported function catches panics: one that left it would abort the process.

#![expect(clippy::needless_pass_by_value, reason = "arguments come from JavaScript by value")]
#![expect(clippy::missing_errors_doc, reason = "`index.d.ts` says what is thrown")]

mod clock;
mod decision;
mod error;
pub mod kv_events;
mod number;
mod plain;
pub mod readers;
mod reason;
pub mod request;
pub mod scheduler;
pub mod usage;

use napi_derive::napi;

/// Version of the package.
#[napi]
pub const VERSION: &str = p3sched::VERSION;

/// Lets a test see that the process survives a panic.
///
/// # Panics
///
/// Always.
#[napi(catch_unwind)]
pub fn panic() {
    std::panic::resume_unwind(Box::new("a panic was asked for"))
}
