//! Envoy's external processing protocol: one gRPC stream per HTTP request.
//!
//! - [`headers`]: the names that gateways and pickers agree on, and what is read under them.
//! - [`router`]: from what was seen of a request to a pick or a refusal.
//! - [`stream`]: the state machine of one request, free of gRPC types.
//! - [`service`]: tonic's messages to and from the state machine's.

pub mod headers;
pub mod router;
pub mod service;
pub mod stream;
