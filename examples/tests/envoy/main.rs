//! End to end: a client, a real Envoy, `epp-server` and three simulated engines.

mod answers;
mod faults;
mod routing;
mod stack;
