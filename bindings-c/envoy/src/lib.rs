//! p3sched inside Envoy: an HTTP filter that picks the host of every request in the proxy itself.
//!
//! Envoy loads `libp3sched_envoy.so` as a dynamic module. In the order in which a request meets them:
//!
//! 1. [`settings`]: what the filter is told, as JSON in Envoy's configuration;
//! 2. `hooks`: the functions that Envoy calls; no panic leaves them;
//! 3. [`p3sched::gateway`]: what is read from the headers, what a refused client is told;
//! 4. [`stream`]: one request's state machine, free of Envoy's types; [`gateway`] is what it asks of Envoy;
//! 5. [`router`]: the one scheduler of a filter configuration, shared by all workers;
//! 6. [`scrape`] and [`discovery`]: the engines' metrics and the cluster's endpoints, fetched through Envoy's own clusters,
//!    in the rhythm of a [`metronome`];
//! 7. `abi`: Envoy's C functions and safe wrappers of them, the only place with unsafe code beside the hooks.
//!
//! Hooks of a configuration run on Envoy's main thread, those of a stream on the worker that owns it. Nothing here waits.

// Envoy exports what these call, so that a test program could not be linked with them.
#[cfg(not(test))]
mod abi;
pub mod clock;
pub mod discovery;
pub mod gateway;
#[cfg(not(test))]
mod hooks;
pub mod metronome;
pub mod router;
pub mod scrape;
pub mod settings;
pub mod stream;
