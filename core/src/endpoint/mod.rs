//! Step 3: the endpoints, what they report and what is in flight on them.
mod metrics;

pub use metrics::EndpointMetrics;
