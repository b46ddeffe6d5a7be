//! Envoy's external processing protocol: one gRPC stream per HTTP request, with the names of [`p3sched::gateway`].
//!
//! - [`protocol`]: what gateway and picker say to each other.
//! - [`router`]: from what was seen of a request to a pick or a refusal.
//! - [`pool_selection`]: which pool a request is for, where there are several.
//! - [`route`]: what the gateway is told about a pick.
//! - [`stream`]: the state machine of one request, free of gRPC types.
//! - [`closing`]: the end of the server, as the open streams see it.
//! - [`service`]: tonic's streams, with Envoy's messages to and from the state machine's.

mod admission;
pub mod closing;
mod messages;
mod model_name;
pub mod pool_selection;
pub mod protocol;
mod response;
pub mod route;
pub mod router;
pub mod service;
pub mod stream;
