//! End to end: a client, a real Envoy, `epp-server` and three simulated engines.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answers;
mod c_filter;
mod disaggregation;
mod faults;
mod module;
mod module_stack;
mod requests;
mod routing;
mod stack;
