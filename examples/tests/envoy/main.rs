//! End to end: a client, a real Envoy, `epp-server` and three simulated engines.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answers;
mod c_filter;
mod certificates;
mod disaggregation;
mod faults;
mod faulty_clients;
mod faulty_engines;
mod module;
mod module_stack;
mod requests;
mod restarts;
mod routing;
mod stack;
