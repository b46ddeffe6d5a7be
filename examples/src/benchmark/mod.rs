//! What the benchmarks through a real Envoy share.
//!
//! - [`http`]: backends and clients with as little work of their own as possible;
//! - [`usage`]: what the operating system says that a process used;
//! - [`figure`]: the figures that `make bench` collects.

pub mod figure;
pub mod http;
pub mod usage;
