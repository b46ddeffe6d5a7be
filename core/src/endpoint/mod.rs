//! Step 3: the endpoints, what they report and what is in flight on them.
//!
//! [`Endpoint`] is what the caller says of a replica, [`EndpointMetrics`] what its engine reports, [`Candidate`]
//! the plain row of numbers that filters, scorers and pickers see. The pool and the ledger of work in flight
//! stay private: they are reached through the [`Scheduler`](crate::Scheduler).

mod candidate;
mod cold_order;
pub(crate) mod exposition;
pub(crate) mod ledger;
mod load_header;
mod metrics;
pub(crate) mod pool;
pub(crate) mod prediction;
pub(crate) mod rate;
pub(crate) mod rows;
pub(crate) mod session;
pub(crate) mod state;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use candidate::{AdapterState, Candidate};
pub use metrics::EndpointMetrics;

/// One replica of a model server that can be picked.
///
/// # Example
///
/// ```
/// use p3sched::Endpoint;
///
/// let endpoint = Endpoint::new("10.0.0.7:8000");
/// assert_eq!(&*endpoint.name, "10.0.0.7:8000");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an endpoint with its `name`")]
#[non_exhaustive]
pub struct Endpoint {
    /// Where it is reached, `host:port`; also its name in every decision and metric.
    pub name: Arc<str>,
    /// Free labels, for display and for filters that select by label.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl Endpoint {
    /// An endpoint without labels.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), labels: BTreeMap::new() }
    }
}

/// Why a scrape of an engine's metrics brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ScrapeFailure {
    /// Nobody listens (connection refused): the endpoint is out at once, and its cache is gone.
    Unreachable,
    /// No answer (timeout, broken connection): out after a few in a row.
    Failed,
}
