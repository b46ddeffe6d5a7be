//! Envoy's external processing protocol: one gRPC stream per HTTP request, with the names of [`p3sched::gateway`].
//!
//! - [`router`]: from what was seen of a request to a pick or a refusal.
//! - [`stream`]: the state machine of one request, free of gRPC types.
//! - [`service`]: tonic's messages to and from the state machine's.

pub mod router;
pub mod service;
pub mod stream;
