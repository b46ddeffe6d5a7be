//! Which endpoints there are: the pool, and the sources that fill it.
//!
//! - [`fixed`]: a list that was given at start.
//! - [`file`](mod@file): a file that is read again when it changes.

pub mod file;
pub mod fixed;

use std::fmt;
use std::sync::Arc;

use p3sched::{Endpoint, Error, Scheduler};
use serde::Deserialize;
use serde::de::{self, MapAccess, Visitor};
use tokio::sync::watch;

/// The endpoints in force, known to the scheduler and to everybody who watches them.
pub struct Pool {
    scheduler: Arc<Scheduler>,
    endpoints: watch::Sender<Arc<[Endpoint]>>,
}

impl Pool {
    /// A pool without endpoints.
    pub fn new(scheduler: Arc<Scheduler>) -> Self {
        Self { scheduler, endpoints: watch::Sender::new(Arc::from([])) }
    }

    /// The scheduler that picks among the endpoints.
    pub fn scheduler(&self) -> &Arc<Scheduler> {
        &self.scheduler
    }

    /// The endpoints in force.
    pub fn endpoints(&self) -> Arc<[Endpoint]> {
        Arc::clone(&self.endpoints.borrow())
    }

    /// Tells of every change from now on.
    pub fn watch(&self) -> watch::Receiver<Arc<[Endpoint]>> {
        self.endpoints.subscribe()
    }

    /// Replaces the endpoints; those that stay keep what is known of them.
    ///
    /// # Errors
    ///
    /// What [`Scheduler::set_endpoints`] refuses; the old endpoints then stay in force.
    pub fn set(&self, endpoints: Vec<Endpoint>) -> Result<(), Error> {
        self.scheduler.set_endpoints(endpoints.clone())?;
        let names: Vec<&str> = endpoints.iter().map(|endpoint| &*endpoint.name).collect();
        tracing::info!(count = names.len(), endpoints = names.join(","), "endpoints in force");
        self.endpoints.send_replace(endpoints.into());
        Ok(())
    }
}

/// An endpoint as a file writes it: `10.0.0.7:8000`, or `{name: 10.0.0.7:8000, labels: {…}}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointEntry(pub Endpoint);

impl<'de> Deserialize<'de> for EndpointEntry {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EntryVisitor).map(Self)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Endpoint;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an endpoint as `ip:port` or as a map with `name` and `labels`")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Endpoint, E> {
        fixed::parse_endpoint(name).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Endpoint, A::Error> {
        let endpoint = Endpoint::deserialize(de::value::MapAccessDeserializer::new(map))?;
        fixed::parse_endpoint(&endpoint.name).map_err(de::Error::custom)?;
        Ok(endpoint)
    }
}
